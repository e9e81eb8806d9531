use ipnetwork::IpNetwork;
use penstock_model::Addr16;

/// Routes by longest prefix.
#[derive(Debug, Clone)]
pub(crate) struct Routes<T> {
    /// Longest prefix first.
    sorted: Vec<(IpNetwork, T)>,
}

impl<T> FromIterator<(IpNetwork, T)> for Routes<T> {
    fn from_iter<I: IntoIterator<Item = (IpNetwork, T)>>(routes: I) -> Self {
        let mut sorted: Vec<_> = routes.into_iter().collect();
        sorted.sort_by_key(|(p, _)| std::cmp::Reverse(p.prefix()));
        Self { sorted }
    }
}

impl<T> Routes<T> {
    pub(crate) fn lookup(&self, addr: Addr16) -> Option<(IpNetwork, &T)> {
        let ip = addr.to_ip();
        self.sorted.iter().find(|(p, _)| p.contains(ip)).map(|(p, t)| (*p, t))
    }
}
