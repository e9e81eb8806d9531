use crate::{Batch, Event, Rev};
use tokio::sync::mpsc;

/// Batches that a reader may be behind before its watch ends.
pub(crate) const BUFFER: usize = 1024;

/// Readers that want to hear of changes.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    all: Vec<(String, mpsc::Sender<Batch>)>,
}

impl Watchers {
    /// A new reader, who first gets `missed`.
    pub(crate) fn add(&mut self, prefix: String, missed: Vec<Batch>) -> mpsc::Receiver<Batch> {
        let (sender, receiver) = mpsc::channel(BUFFER + missed.len());
        // The buffer is larger than what was missed, so this cannot fail.
        let delivered = missed.into_iter().all(|batch| sender.try_send(batch).is_ok());
        if delivered {
            self.all.push((prefix, sender));
        }
        receiver
    }

    pub(crate) fn announce(&mut self, rev: Rev, events: &[Event]) {
        self.all.retain(|(prefix, sender)| {
            let wanted: Vec<Event> = events.iter().filter(|e| e.key().starts_with(prefix)).cloned().collect();
            if wanted.is_empty() {
                return !sender.is_closed();
            }
            // Full: the reader is too slow. Dropping the sender ends its watch, which it can resume.
            sender.try_send(Batch { rev, events: wanted }).is_ok()
        });
    }
}
