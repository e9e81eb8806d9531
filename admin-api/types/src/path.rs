use crate::kind::find;
use crate::{KINDS, Kind, Shape};
use std::fmt;

/// The canonical name of a resource: `/virtualNetworks/blue/subnets/web`. Collections in their own letter case, ids exact.
#[derive(Clone)]
pub struct ResourcePath {
    text: String,
    kind: &'static Kind,
    kind_path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("there is no resource kind \"{0}\"")]
    UnknownKind(String),
    #[error("\"{0}\" is not the path of a resource")]
    NotAResource(String),
    #[error("\"{0}\" is not a resource id: 1 to 256 characters, none of / \\ ? # or control characters")]
    BadId(String),
}

impl PathError {
    /// The code of [MS-NCNBI] 3.1.5.35.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownKind(_) | Self::NotAResource(_) => "InvalidJsonReferenceFormat",
            Self::BadId(_) => "InvalidResourceName",
        }
    }
}

impl ResourcePath {
    /// Reads `/collection/id[/child/id]...`; a leading `/networking/v1` is dropped, spaces around segments are ignored.
    ///
    /// # Errors
    /// An unknown collection, a missing id or an id that cannot be one.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut segments: Vec<&str> = text.split('/').map(str::trim).filter(|s| !s.is_empty()).collect();
        if segments.first().is_some_and(|s| s.eq_ignore_ascii_case("networking")) {
            segments.drain(..segments.len().min(2));
        }
        let mut path: Option<Self> = None;
        let mut rest = segments.as_slice();
        while let [collection, tail @ ..] = rest {
            let kind = match &path {
                None => find(KINDS, collection),
                Some(p) => p.kind.child(collection),
            }
            .ok_or_else(|| PathError::UnknownKind((*collection).to_owned()))?;
            let (id, tail) = match (kind.shape, tail) {
                (Shape::Singleton(id), [given, tail @ ..]) if id.eq_ignore_ascii_case(given) => (id, tail),
                (Shape::Singleton(id), []) => (id, tail),
                (Shape::Collection, [id, tail @ ..]) => (*id, tail),
                _ => return Err(PathError::NotAResource(text.to_owned())),
            };
            path = Some(match path {
                None => Self::top(kind, id)?,
                Some(p) => p.child(kind, id)?,
            });
            rest = tail;
        }
        path.ok_or_else(|| PathError::NotAResource(text.to_owned()))
    }

    /// # Errors
    /// An id that cannot be one.
    pub fn top(kind: &'static Kind, id: &str) -> Result<Self, PathError> {
        Self::check(kind, id)?;
        Ok(Self { text: segment(kind, id), kind, kind_path: kind.collection.to_owned() })
    }

    /// # Errors
    /// An id that cannot be one.
    pub fn child(&self, kind: &'static Kind, id: &str) -> Result<Self, PathError> {
        Self::check(kind, id)?;
        Ok(Self {
            text: format!("{}{}", self.text, segment(kind, id)),
            kind,
            kind_path: format!("{}/{}", self.kind_path, kind.collection),
        })
    }

    fn check(kind: &Kind, id: &str) -> Result<(), PathError> {
        if let Shape::Singleton(own) = kind.shape {
            return if own == id { Ok(()) } else { Err(PathError::BadId(id.to_owned())) };
        }
        let bad = |c: char| matches!(c, '/' | '\\' | '?' | '#') || c.is_control();
        if id.is_empty() || id.len() > 256 || id.contains(bad) || id != id.trim() {
            return Err(PathError::BadId(id.to_owned()));
        }
        Ok(())
    }

    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// `virtualNetworks/subnets`
    #[must_use]
    pub fn kind_path(&self) -> &str {
        &self.kind_path
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The last segment.
    #[must_use]
    pub fn id(&self) -> &str {
        match self.kind.shape {
            Shape::Singleton(id) => id,
            Shape::Collection => self.text.rsplit('/').next().unwrap_or_default(),
        }
    }

    /// The path without its leading slash: a readable name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text.trim_start_matches('/')
    }

    /// Each (collection, id) below the top-level resource.
    #[must_use]
    pub fn below_top(&self) -> Vec<(&str, &str)> {
        let parts: Vec<&str> = self.text.split('/').skip(3).collect();
        parts.chunks_exact(2).filter_map(|c| Some((*c.first()?, *c.get(1)?))).collect()
    }

    #[must_use]
    pub fn is_top(&self) -> bool {
        !self.kind_path.contains('/')
    }

    /// The top-level resource whose document holds this one.
    #[must_use]
    pub fn document(&self) -> Self {
        let mut path = self.clone();
        while let Some(parent) = path.parent() {
            path = parent;
        }
        path
    }

    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (kind_path, _) = self.kind_path.rsplit_once('/')?;
        let mut kind = find(KINDS, kind_path.split('/').next()?)?;
        for collection in kind_path.split('/').skip(1) {
            kind = kind.child(collection)?;
        }
        let text = self.text.rsplit_once('/')?.0.rsplit_once('/')?.0.to_owned();
        Some(Self { text, kind, kind_path: kind_path.to_owned() })
    }

    /// Whether this is `other` or one of its children.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.text == other.text || self.text.strip_prefix(other.text.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn segment(kind: &Kind, id: &str) -> String {
    match id {
        "" => format!("/{}", kind.collection),
        id => format!("/{}/{id}", kind.collection),
    }
}

impl PartialEq for ResourcePath {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for ResourcePath {}
impl PartialOrd for ResourcePath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ResourcePath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl std::hash::Hash for ResourcePath {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_in_any_letter_case_and_with_stray_spaces() {
        let path = ResourcePath::parse("/networking/v1/VIRTUALNETWORKS/blue /Subnets/web").unwrap();
        assert_eq!(path.as_str(), "/virtualNetworks/blue/subnets/web");
        assert_eq!(path.kind_path(), "virtualNetworks/subnets");
        assert_eq!(path.document().as_str(), "/virtualNetworks/blue");
        assert_eq!(path.below_top(), [("subnets", "web")]);
        assert_eq!(path.id(), "web");
    }

    #[test]
    fn a_singleton_has_its_constant_id() {
        assert_eq!(ResourcePath::parse("/LoadBalancerManager/Config").unwrap().as_str(), "/loadBalancerManager/config");
        assert!(ResourcePath::parse("/loadBalancerManager/other").is_err());
    }

    #[test]
    fn an_unknown_kind_and_a_bare_collection_are_refused() {
        assert_eq!(ResourcePath::parse("/teapots/x").unwrap_err(), PathError::UnknownKind("teapots".into()));
        assert!(matches!(ResourcePath::parse("/virtualNetworks"), Err(PathError::NotAResource(_))));
        assert!(ResourcePath::parse("").is_err());
    }

    #[test]
    fn a_longer_id_is_not_a_child() {
        let a = ResourcePath::parse("/virtualNetworks/blue").unwrap();
        let b = ResourcePath::parse("/virtualNetworks/blue2").unwrap();
        assert!(!b.is_within(&a));
        assert!(ResourcePath::parse("/virtualNetworks/blue/subnets/x").unwrap().is_within(&a));
    }
}
