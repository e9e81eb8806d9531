/// A kind of resource, as data.
#[derive(Debug)]
pub struct Kind {
    /// The collection as it is sent; read in any letter case.
    pub collection: &'static str,
    pub shape: Shape,
    pub children: &'static [Kind],
    /// What is known of `properties`. Unknown properties are kept and returned.
    pub properties: &'static [Property],
    pub function: Function,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Collection,
    /// One resource of constant id that cannot be deleted. An empty id: the resource stands at the collection's own path.
    Singleton(&'static str),
}

/// Whether anything follows from a resource of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Compiled into goal states, or used by what is.
    Compiled,
    /// Kept and returned; `configurationState` says so.
    Stored,
}

#[derive(Debug)]
pub struct Property {
    pub name: &'static str,
    pub of: Type,
    pub rule: Rule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Required,
    Optional,
    /// Ignored in requests, filled in answers.
    ReadOnly,
    /// A secret: sealed in the store, never returned.
    WriteOnly,
}

/// What a value must look like, and the wire type that it is kept and returned in. Read more widely: numbers and booleans may
/// be strings or strings numbers, words may have any letter case.
#[derive(Debug)]
pub enum Type {
    Any,
    Bool,
    /// A boolean that is a string on the wire: the words for false and true.
    BoolText(&'static str, &'static str),
    Int(i64, i64),
    /// A number that is a string on the wire.
    IntText(i64, i64),
    Text,
    /// All published spellings. Each of them is returned as it was sent (the specification's tables say `TCP`, its examples
    /// `Tcp`); any other letter case becomes the first.
    OneOf(&'static [&'static str]),
    Ip,
    /// `address/length`; a bare address is a host prefix.
    Prefix,
    Mac,
    /// `80`, `80-81` or `*`.
    PortRange,
    /// `*`, an address, a prefix, or several with commas between.
    AddressPattern,
    /// 32 bytes in base64: a WireGuard key.
    Key,
    /// `{"resourceRef": ...}` to one of these kinds (`virtualNetworks/subnets`).
    Ref(&'static [&'static str]),
    List(&'static Type),
    Object(&'static [Property]),
    /// Filled by the server: all resources of kind `from` that refer to this one.
    BackRefs(&'static str),
    /// The same where there can be one.
    BackRef(&'static str),
}

impl Kind {
    #[must_use]
    pub fn child(&self, collection: &str) -> Option<&'static Kind> {
        find(self.children, collection)
    }

    #[must_use]
    pub fn is_singleton(&self) -> bool {
        matches!(self.shape, Shape::Singleton(_))
    }
}

pub(crate) fn find(kinds: &'static [Kind], collection: &str) -> Option<&'static Kind> {
    kinds.iter().find(|k| k.collection.eq_ignore_ascii_case(collection))
}
