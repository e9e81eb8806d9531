use crate::frame::{self, FrameError, MAX_GOAL_LEN, MAX_REPORT_LEN};
use crate::identity::{CertRole, Identity, IdentityError};
use crate::message::{NodeRole, ToController, ToNode};
use crate::sessions::{Sessions, Ticket};
use crate::source::{GoalSource, Lead, subscribed};
use crate::tls::{ALPN, CredentialError, Credentials};
use crate::transport::{CloseCode, transport};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The controller's end of the southbound link.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    sessions: Arc<Sessions>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("southbound: {0}")]
    Credentials(#[from] CredentialError),
    #[error(
        "southbound: the certificate is for {0}, not for a controller: issue one with `penstock pki issue --role controller`"
    )]
    NotController(Identity),
    #[error("southbound: cannot listen on UDP {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
}

/// Why a node's session ended. Each says what the operator can do.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("it asked to be a {0}, which its certificate does not grant: issue one with `--role {0}`")]
    WrongRole(NodeRole),
    #[error("it ended its stream")]
    Ended,
    #[error("it spoke out of turn: {0}")]
    Protocol(&'static str),
    #[error("it said nothing within {} s of connecting", GREETING.as_secs())]
    Silent,
    #[error("this controller does not lead")]
    NotLeader,
}

/// From the first packet to the hello.
const GREETING: Duration = Duration::from_secs(10);

/// More nodes than an installation has; each connection costs about 50 KB.
const MAX_CONNECTIONS: usize = 4096;

/// Serves nodes until shutdown.
///
/// # Errors
/// The address is taken or the credentials cannot be used. What a node does is no error.
pub async fn serve(
    listen: SocketAddr,
    credentials: &Credentials,
    hub: Arc<dyn GoalSource>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ServerError> {
    Server::bind(listen, credentials)?.run(hub, shutdown).await;
    Ok(())
}

impl Server {
    /// Opens the UDP port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address is taken or the credentials cannot be used.
    pub fn bind(listen: SocketAddr, credentials: &Credentials) -> Result<Self, ServerError> {
        if !credentials.identity().may_be(CertRole::Controller) {
            return Err(ServerError::NotController(credentials.identity().clone()));
        }
        let tls = credentials.server_config(&[ALPN])?;
        let crypto = QuicServerConfig::try_from(tls).map_err(CredentialError::from)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport(1));
        let endpoint = Endpoint::server(config, listen).map_err(|e| ServerError::Bind(listen, e))?;
        Ok(Self { endpoint, sessions: Arc::default() })
    }

    /// Where it listens: tells the port when the configuration said 0.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    pub async fn run(self, hub: Arc<dyn GoalSource>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            let Some(incoming) = incoming else { break };
            // A sender with a forged address learns nothing and takes no place (RFC 9000 section 8.1.2). It costs a node one
            // round trip for each connection, of which it makes few.
            if !incoming.remote_address_validated() {
                // An error means that a token was shown already; then the address is validated and we are not here.
                let _ = incoming.retry();
                continue;
            }
            if self.endpoint.open_connections() >= MAX_CONNECTIONS {
                incoming.refuse();
                continue;
            }
            tokio::spawn(session(incoming, hub.clone(), self.sessions.clone()));
        }
        self.endpoint.close(VarInt::from_u32(CloseCode::Shutdown as u32), b"the controller stops");
        // So that nodes learn of it now instead of by silence.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

/// One connection, from handshake to end.
async fn session(incoming: Incoming, hub: Arc<dyn GoalSource>, sessions: Arc<Sessions>) {
    let remote = incoming.remote_address();
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => return tracing::warn!(%remote, %error, "southbound: a peer was refused"),
    };
    let greeted = tokio::time::timeout(GREETING, greet(&connection)).await.unwrap_or(Err(SessionError::Silent));
    let (role, node, streams) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => {
            refuse(&connection, &error);
            return tracing::warn!(%remote, %error, "southbound: a node was refused");
        }
    };
    let leads = hub.lead();
    let Some(lead) = leads.borrow().clone() else {
        refuse(&connection, &SessionError::NotLeader);
        return tracing::debug!(%remote, node, "southbound: a node was sent to the leader");
    };
    let ticket = sessions.enter(role, &node, &connection, &*hub);
    tracing::info!(%role, node, %remote, "southbound: node connected");
    let error = tokio::select! {
        error = serve_node(&*hub, &sessions, &ticket, &lead, streams) => error,
        () = deposed(leads, &lead) => SessionError::NotLeader,
    };
    refuse(&connection, &error);
    sessions.leave(ticket, &*hub);
    tracing::info!(%role, node, %remote, %error, "southbound: node gone");
}

/// Returns when a controller leads no more.
async fn deposed(mut leads: watch::Receiver<Option<Lead>>, lead: &Lead) {
    let _ = leads.wait_for(|now| now.as_ref() != Some(lead)).await;
}

fn refuse(connection: &Connection, error: &SessionError) {
    match error {
        SessionError::NotLeader => CloseCode::NotLeader.close(connection, &error.to_string()),
        SessionError::WrongRole(_) | SessionError::Identity(_) => {
            CloseCode::WrongRole.close(connection, &error.to_string());
        }
        SessionError::Connection(_) => {}
        _ => CloseCode::Protocol.close(connection, &error.to_string()),
    }
}

/// Who is there: the name from the certificate, the role from the hello if the certificate grants it.
async fn greet(connection: &Connection) -> Result<(NodeRole, String, (SendStream, RecvStream)), SessionError> {
    let identity = peer_identity(connection)?;
    let (send, mut receive) = connection.accept_bi().await?;
    let hello = frame::read(&mut receive, MAX_REPORT_LEN).await?.ok_or(SessionError::Ended)?;
    let ToController::Hello { role } = hello else { return Err(SessionError::Protocol("a report before the hello")) };
    if !identity.may_be(CertRole::Node(role)) {
        return Err(SessionError::WrongRole(role));
    }
    Ok((role, identity.name, (send, receive)))
}

/// Who the other end is, from the certificate that TLS has verified.
pub(crate) fn peer_identity(connection: &Connection) -> Result<Identity, IdentityError> {
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.as_ref().and_then(|c| c.first()).ok_or(IdentityError::Missing).and_then(Identity::of)
}

/// Goals out and reports in, side by side, until one of them ends.
async fn serve_node(
    hub: &dyn GoalSource,
    sessions: &Sessions,
    ticket: &Ticket,
    lead: &Lead,
    (mut send, receive): (SendStream, RecvStream),
) -> SessionError {
    if let Err(error) = frame::write(&mut send, &ToNode::Welcome(lead.clone()), MAX_REPORT_LEN).await {
        return error.into();
    }
    tokio::select! {
        error = send_goals(hub, sessions, ticket, send) => error,
        error = take_reports(hub, ticket.role, &ticket.node, receive) => error,
    }
}

async fn send_goals(hub: &dyn GoalSource, sessions: &Sessions, ticket: &Ticket, mut send: SendStream) -> SessionError {
    loop {
        let mut goals = subscribed(hub, ticket.role, &ticket.node).await;
        sessions.affirm(ticket, hub);
        loop {
            let goal = goals.borrow_and_update().clone();
            if let Some(goal) = goal {
                let encoded = tokio::task::spawn_blocking(move || frame::encode(&ToNodeRef(&goal), MAX_GOAL_LEN)).await;
                let sent = match encoded {
                    Ok(Ok(bytes)) => send.write_all(&bytes).await.map_err(|e| FrameError::Io(e.into())),
                    Ok(Err(error)) => Err(error),
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = sent {
                    return error.into();
                }
            }
            if goals.changed().await.is_err() {
                break;
            }
        }
    }
}

/// [`ToNode::Goal`] without a copy of the goal.
struct ToNodeRef<'a>(&'a crate::message::NodeGoal);

impl serde::Serialize for ToNodeRef<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_variant("ToNode", 1, ToNode::GOAL, self.0)
    }
}

async fn take_reports(hub: &dyn GoalSource, role: NodeRole, node: &str, mut receive: RecvStream) -> SessionError {
    loop {
        match frame::read(&mut receive, MAX_REPORT_LEN).await {
            Ok(Some(ToController::Report(report))) if report.role() == role => hub.report(node, report),
            Ok(Some(ToController::Report(_))) => return SessionError::Protocol("a report for another role"),
            Ok(Some(ToController::Hello { .. })) => return SessionError::Protocol("a second hello"),
            Ok(None) => return SessionError::Ended,
            Err(error) => return error.into(),
        }
    }
}
