use crate::backoff::{Backoff, chance};
use crate::frame::{self, FrameError, MAX_GOAL_LEN, MAX_REPORT_LEN};
use crate::goal_file::{GoalFile, GoalFileError};
use crate::identity::{CertRole, Identity, IdentityError};
use crate::message::{NodeRole, Role, ToController, ToNode};
use crate::server::peer_identity;
use crate::source::Lead;
use crate::tls::{ALPN, CONTROLLER_NAME, CredentialError, Credentials};
use crate::transport::{CloseCode, transport};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A node's end of the southbound link: keeps `goal` equal to what the controller wants and tells it the node's status.
#[derive(Debug)]
pub struct Link {
    controllers: Vec<String>,
    /// The latest leader that gave goals.
    heard: Mutex<Option<Lead>>,
    state_dir: PathBuf,
    identity: Identity,
    tls: ClientConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("the certificate is for {identity}, which does not grant the role {role}: issue one with `--role {role}`")]
    Role { identity: Identity, role: NodeRole },
    #[error("cannot open a UDP socket: {0}")]
    Socket(std::io::Error),
}

/// Why a session with the controller ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot find `{0}`: {1}")]
    Resolve(String, std::io::Error),
    #[error("`{0}` has no address")]
    NoAddress(String),
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("no answer within {} s", CONNECT.as_secs())]
    Timeout,
    #[error("the other end is {0}, not a controller")]
    NotController(Identity),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the controller ended the stream")]
    Ended,
    #[error("the controller sent a goal for a {0}")]
    ForeignGoal(NodeRole),
    #[error("no controller is named")]
    NoController,
    #[error("the controller says that it leads since term {0}; another leads since term {1}")]
    FormerLeader(u64, u64),
    #[error("the controller began without saying who it is")]
    NoWelcome,
}

/// Of a gateway, for the controller.
const PATIENCE: Duration = Duration::from_secs(2);

const CONNECT: Duration = Duration::from_secs(5);

/// A connection that lasted this long was a good one.
const STEADY: Duration = Duration::from_secs(5);

impl Link {
    /// `controllers` are `host:port`, resolved at each attempt; of several the one that leads is looked for.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub fn new(controllers: Vec<String>, credentials: &Credentials, state_dir: PathBuf) -> Result<Self, LinkError> {
        let crypto = QuicClientConfig::try_from(credentials.client_config(&[ALPN])?).map_err(CredentialError::from)?;
        let mut tls = ClientConfig::new(Arc::new(crypto));
        tls.transport_config(transport(0));
        Ok(Self { controllers, heard: Mutex::default(), state_dir, identity: credentials.identity().clone(), tls })
    }

    /// The node's name: its certificate's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Runs until shutdown: first the goal from disk, then the controller's, for ever connected or trying to be. A gateway waits 2
    /// seconds for the controller before: another one may have taken its tunnels over, and would lose the sites to it.
    ///
    /// A goal is kept on disk once `status` says that it is applied, so what a restart begins with is known to work.
    ///
    /// # Errors
    /// The certificate does not grant the role, or no socket can be had. An absent controller is no error.
    pub async fn run<R: Role>(
        &self,
        goal: watch::Sender<Option<Arc<R::Goal>>>,
        status: watch::Receiver<R::Status>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), LinkError> {
        if !self.identity.may_be(CertRole::Node(R::ROLE)) {
            return Err(LinkError::Role { identity: self.identity.clone(), role: R::ROLE });
        }
        let file = Arc::new(GoalFile::<R>::new(&self.state_dir, self.name()));
        let kept = load(&file).await;
        tokio::select! {
            // First: what is kept is there when the controller is asked.
            biased;
            () = begin::<R>(&goal, kept.clone()) => Ok(()),
            result = self.stay_connected::<R>(&goal, &status) => result,
            () = keep_on_disk(file, kept, goal.subscribe(), status.clone()) => Ok(()),
            _ = shutdown.wait_for(|stop| *stop) => Ok(()),
        }
    }

    async fn stay_connected<R: Role>(
        &self,
        goal: &watch::Sender<Option<Arc<R::Goal>>>,
        status: &watch::Receiver<R::Status>,
    ) -> Result<(), LinkError> {
        let endpoint = endpoint().map_err(LinkError::Socket)?;
        let mut backoff = Backoff::default();
        let mut last = String::new();
        let mut tried = 0;
        for controller in self.controllers.iter().cycle() {
            let error = match self.connect::<R>(&endpoint, controller).await {
                Ok((connection, streams)) => {
                    tracing::info!(role = %R::ROLE, controller, "connected to the controller");
                    metrics::gauge!("penstock_controller_connected", "role" => R::ROLE.name()).set(1.0);
                    let since = tokio::time::Instant::now();
                    let _closing = CloseOnDrop(&connection);
                    let error = session::<R>(&self.heard, streams, goal, status.clone()).await;
                    // Only after a while: two nodes with one certificate would replace each other without a pause.
                    if since.elapsed() > STEADY {
                        backoff.reset();
                        tried = 0;
                    }
                    connection.close_reason().map_or(error, SessionError::Connection)
                }
                Err(error) => error,
            };
            metrics::gauge!("penstock_controller_connected", "role" => R::ROLE.name()).set(0.0);
            let text = error.to_string();
            if text != last {
                tracing::warn!(role = %R::ROLE, controller, error = text, "no connection to the controller; forwarding goes on, retrying");
                last = text;
            }
            // The others at once; then all again, later.
            tried += 1;
            if tried >= self.controllers.len() {
                tried = 0;
                tokio::time::sleep(backoff.wait(chance())).await;
            }
        }
        tracing::error!(role = %R::ROLE, error = %SessionError::NoController, "forwarding by what is kept on disk");
        std::future::pending().await
    }

    async fn connect<R: Role>(
        &self,
        endpoint: &Endpoint,
        controller: &str,
    ) -> Result<(Connection, (SendStream, RecvStream)), SessionError> {
        let attempt = async {
            let connection = self.dial(endpoint, controller).await?;
            let identity = peer_identity(&connection)?;
            if !identity.may_be(CertRole::Controller) {
                return Err(SessionError::NotController(identity));
            }
            let (mut send, receive) = connection.open_bi().await?;
            frame::write(&mut send, &ToController::Hello { role: R::ROLE }, MAX_REPORT_LEN).await?;
            Ok((connection, (send, receive)))
        };
        tokio::time::timeout(CONNECT, attempt).await.unwrap_or(Err(SessionError::Timeout))
    }

    /// Tries each address of the controller.
    async fn dial(&self, endpoint: &Endpoint, controller: &str) -> Result<Connection, SessionError> {
        let addresses =
            tokio::net::lookup_host(controller).await.map_err(|e| SessionError::Resolve(controller.to_owned(), e))?;
        let mut error = SessionError::NoAddress(controller.to_owned());
        for address in addresses {
            let address = mapped(address, endpoint);
            match endpoint.connect_with(self.tls.clone(), address, CONTROLLER_NAME)?.await {
                Ok(connection) => return Ok(connection),
                Err(e) => error = e.into(),
            }
        }
        Err(error)
    }
}

/// When a session ends for a reason of this side, the controller is told at once.
struct CloseOnDrop<'a>(&'a Connection);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        CloseCode::Shutdown.close(self.0, "the node stops");
    }
}

/// A socket for both families, or for IPv4 where the kernel has no IPv6.
fn endpoint() -> std::io::Result<Endpoint> {
    Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())
        .or_else(|_| Endpoint::client((std::net::Ipv4Addr::UNSPECIFIED, 0).into()))
}

/// An IPv4 address as a dual-stack socket takes it.
fn mapped(address: SocketAddr, endpoint: &Endpoint) -> SocketAddr {
    match (address, endpoint.local_addr()) {
        (SocketAddr::V4(v4), Ok(SocketAddr::V6(_))) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        _ => address,
    }
}

/// Begins with what was kept, unless the controller was faster. Never returns.
async fn begin<R: Role>(goal: &watch::Sender<Option<Arc<R::Goal>>>, kept: Option<Arc<R::Goal>>) {
    if let Some(kept) = kept {
        if R::ROLE == NodeRole::Gateway {
            tokio::time::sleep(PATIENCE).await;
        }
        goal.send_if_modified(|now| {
            let is_first = now.is_none();
            if is_first {
                tracing::info!(role = %R::ROLE, revision = %R::revision(&kept), "starting with the goal kept on disk");
                *now = Some(kept);
            }
            is_first
        });
    }
    std::future::pending().await
}

async fn load<R: Role>(file: &Arc<GoalFile<R>>) -> Option<Arc<R::Goal>> {
    let reader = file.clone();
    let loaded = tokio::task::spawn_blocking(move || reader.load()).await;
    match loaded {
        Ok(Ok(Some(kept))) => Some(Arc::new(kept)),
        Ok(Ok(None)) => None,
        Ok(Err(error)) => {
            tracing::error!(role = %R::ROLE, %error, "starting without a goal");
            None
        }
        Err(error) => {
            tracing::error!(role = %R::ROLE, %error, "starting without a goal");
            None
        }
    }
}

async fn session<R: Role>(
    heard: &Mutex<Option<Lead>>,
    (send, receive): (SendStream, RecvStream),
    goal: &watch::Sender<Option<Arc<R::Goal>>>,
    status: watch::Receiver<R::Status>,
) -> SessionError {
    tokio::select! {
        error = take_goals::<R>(heard, receive, goal) => error,
        error = send_reports::<R>(send, status) => error,
    }
}

/// A controller that led before, and does not know that another does now, is not followed.
fn welcome(heard: &Mutex<Option<Lead>>, lead: Lead) -> Result<(), SessionError> {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    match &*heard {
        Some(known) if known.site == lead.site && known.term > lead.term => {
            Err(SessionError::FormerLeader(lead.term, known.term))
        }
        _ => {
            *heard = Some(lead);
            Ok(())
        }
    }
}

async fn take_goals<R: Role>(
    heard: &Mutex<Option<Lead>>,
    mut receive: RecvStream,
    goal: &watch::Sender<Option<Arc<R::Goal>>>,
) -> SessionError {
    match frame::read(&mut receive, MAX_REPORT_LEN).await {
        Ok(Some(ToNode::Welcome(lead))) => {
            if let Err(error) = welcome(heard, lead) {
                return error;
            }
        }
        Ok(Some(ToNode::Goal(_))) => return SessionError::NoWelcome,
        Ok(None) => return SessionError::Ended,
        Err(error) => return error.into(),
    }
    loop {
        let message = match frame::read(&mut receive, MAX_GOAL_LEN).await {
            Ok(Some(ToNode::Goal(message))) => message,
            Ok(Some(ToNode::Welcome(_))) => return SessionError::NoWelcome,
            Ok(None) => return SessionError::Ended,
            Err(error) => return error.into(),
        };
        let role = message.role();
        let Some(new) = R::goal(message) else { return SessionError::ForeignGoal(role) };
        publish::<R>(goal, new);
    }
}

/// Equal goals are compared whole, not by revision: after a controller has lost its store, revisions begin again.
pub(crate) fn publish<R: Role>(goal: &watch::Sender<Option<Arc<R::Goal>>>, new: R::Goal) {
    let revision = R::revision(&new);
    let changed = goal.send_if_modified(|current| {
        let changed = current.as_deref() != Some(&new);
        if changed {
            *current = Some(Arc::new(new));
        }
        changed
    });
    tracing::debug!(role = %R::ROLE, %revision, changed, "goal received");
}

/// Sends the status at once and whenever it changes. What changes faster than the link carries is left out.
async fn send_reports<R: Role>(mut send: SendStream, mut status: watch::Receiver<R::Status>) -> SessionError {
    loop {
        let report = R::report(status.borrow_and_update().clone());
        if let Err(error) = frame::write(&mut send, &ToController::Report(report), MAX_REPORT_LEN).await {
            return error.into();
        }
        if status.changed().await.is_err() {
            // The data plane has ended; the process is about to.
            std::future::pending::<()>().await;
        }
    }
}

/// Writes each goal to disk when the data plane has applied it.
async fn keep_on_disk<R: Role>(
    file: Arc<GoalFile<R>>,
    mut kept: Option<Arc<R::Goal>>,
    mut goal: watch::Receiver<Option<Arc<R::Goal>>>,
    mut status: watch::Receiver<R::Status>,
) {
    loop {
        let current = goal.borrow_and_update().clone();
        let applied = R::applied(&status.borrow_and_update());
        if let Some(current) = current
            && R::revision(&current) == applied
            && kept.as_ref() != Some(&current)
        {
            match save(file.clone(), current.clone()).await {
                Ok(()) => tracing::debug!(role = %R::ROLE, revision = %applied, "goal kept on disk"),
                Err(error) => {
                    tracing::error!(role = %R::ROLE, %error, "the goal could not be kept on disk: a restart without the controller would begin with an older one")
                }
            }
            // Also after a failure: the next goal tries again, the same one would fail the same way ten times a second.
            kept = Some(current);
        }
        let changed = tokio::select! {
            changed = goal.changed() => changed,
            changed = status.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn save<R: Role>(file: Arc<GoalFile<R>>, goal: Arc<R::Goal>) -> Result<(), GoalFileError> {
    match tokio::task::spawn_blocking(move || file.save(&goal)).await {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_followed_unless_a_later_one_of_the_same_site_was() {
        let heard = Mutex::default();
        let lead = |site: &str, term| Lead { site: site.to_owned(), term };
        for (site, term, followed) in
            [("a", 7, true), ("a", 7, true), ("a", 6, false), ("a", 9, true), ("a", 7, false), ("b", 1, true)]
        {
            assert_eq!(welcome(&heard, lead(site, term)).is_ok(), followed, "{site} {term}");
        }
    }
}
