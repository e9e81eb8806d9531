use crate::error::{ClientError, causes};
use serde_json::Value;

/// One change, or a part of what is there at the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `added`, `synchronized`, `modified` or `deleted`.
    pub name: String,
    /// The revision up to which everything has been told; absent within a change of several resources.
    pub revision: Option<u64>,
    pub data: Value,
}

/// Server-sent events as they come in. Holds one unfinished event at most.
#[derive(Debug)]
pub struct Events {
    server: String,
    response: reqwest::Response,
    text: Vec<u8>,
}

/// No event is as long: a resource is at most a body.
const LONGEST: usize = 32 << 20;

impl Events {
    pub(crate) const fn new(server: String, response: reqwest::Response) -> Self {
        Self { server, response, text: Vec::new() }
    }

    /// The next event; none when the controller ends the stream, which may be resumed.
    ///
    /// # Errors
    /// The connection broke, or what came is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(end) = self.text.windows(2).position(|w| w == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                match parse(&String::from_utf8_lossy(&block)) {
                    Some(event) => return Ok(Some(event)),
                    // A comment, which shows that the stream is alive.
                    None => continue,
                }
            }
            let broken = |reason: String| ClientError::Transport { server: self.server.clone(), reason };
            match self.response.chunk().await {
                Ok(None) => return Ok(None),
                Ok(Some(_)) if self.text.len() > LONGEST => return Err(broken("an event without end".to_owned())),
                Ok(Some(chunk)) => self.text.extend_from_slice(&chunk),
                Err(e) => return Err(broken(causes(&e))),
            }
        }
    }
}

fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    Some(Event {
        name: field("event:")?.to_owned(),
        revision: field("id:").and_then(|i| i.parse().ok()),
        data: serde_json::from_str(field("data:")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_comments_are_not_events() {
        let event = parse("event: added\nid: 7\ndata: {\"resourceRef\":\"/servers/a\"}\n\n").unwrap();
        assert_eq!((event.name.as_str(), event.revision), ("added", Some(7)));
        assert_eq!(event.data["resourceRef"], "/servers/a");
        assert_eq!(parse(": revision 7\n\n"), None);
    }
}
