//! Sockets: who comes is judged, given a thread of which there are so many, or turned away.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use crate::error::Error;
use crate::process::log::{self, Level};
use crate::serve::auth::{Known, Peer, Tokens};
use crate::serve::connections::{Connections, Converse, Slot};
use crate::serve::daemon::Daemon;
use crate::serve::http::conn::{Conn, Next, Stream, turn_away};
use crate::serve::http::request::Method;
use crate::serve::notify::{self, Handed};
use crate::serve::socket::short;
use crate::serve::{api, problem};
use crate::view::metrics::life::{LIFE, Refusal};

/// One socket.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Who may come in, and how many at once.
#[derive(Debug)]
pub(super) struct Gate {
    daemon: Arc<Daemon>,
    tokens: Mutex<Tokens>,
}

impl Gate {
    pub(super) fn new(daemon: Arc<Daemon>, tokens: Tokens) -> Gate {
        Gate { daemon, tokens: Mutex::new(tokens) }
    }

    /// Reads the files of the tokens again.
    pub(super) fn renew_token(&self) -> Result<(), Error> {
        let options = &self.daemon.options;
        let tokens =
            Tokens::read(options.token_file.as_deref(), options.read_token_file.as_deref())?;
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
        Ok(())
    }

    fn known(&self, given: Option<&str>) -> Known {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).known(given)
    }
}

/// The sockets that were handed over, or the unix socket and, when asked for, a TCP one; and the file of
/// the unix socket if it was made here.
pub(super) fn open(daemon: &Daemon) -> Result<(Vec<Listener>, Option<PathBuf>), Error> {
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    };
    let mut listeners = Vec::new();
    let mut made = None;
    for handed in notify::handed().map_err(io("take over", Path::new("LISTEN_FDS")))? {
        match handed {
            Handed::Unix(listener) => listeners.push(Listener::Unix(listener)),
            Handed::Tcp(_)
                if daemon.options.token_file.is_none()
                    && daemon.options.read_token_file.is_none() =>
            {
                return Err(Error::Usage(
                    "a TCP socket was handed over, and there is no --token-file".into(),
                ));
            }
            Handed::Tcp(listener) => listeners.push(Listener::Tcp(listener)),
        }
    }
    if !listeners.iter().any(|listener| matches!(listener, Listener::Unix(_))) {
        let path = socket_path(daemon);
        listeners.push(Listener::Unix(bind(&path).map_err(io("listen on", &path))?));
        made = Some(path);
    }
    if let Some(address) = daemon.options.listen {
        let path = PathBuf::from(address.to_string());
        let listener = TcpListener::bind(address).map_err(io("listen on", &path))?;
        if !address.ip().is_loopback() {
            let msg = format!("{address} is not loopback, and the token goes in plain text");
            log::line(Level::Warning, &msg, &[]);
        }
        // The port may have been left to the system.
        let address = listener.local_addr().map_err(io("listen on", &path))?;
        let fields = [("address", address.to_string().into())];
        log::line(Level::Info, "listening", &fields);
        listeners.push(Listener::Tcp(listener));
    }
    Ok((listeners, made))
}

fn socket_path(daemon: &Daemon) -> PathBuf {
    let options = &daemon.options;
    options.socket.clone().unwrap_or_else(|| crate::serve::socket::socket(&daemon.settings().state))
}

/// Binds beside and renames, so that there is no moment with other rights, and a socket that a dead
/// daemon left is replaced. The caller holds the lock of the only daemon.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else"));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    drop(fs::remove_file(&new));
    let listener = short(&new, |new| UnixListener::bind(new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o660))?;
    // Whose group may use it is the directory's, as with any file that is made there.
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Accepts in a thread of its own until the process ends.
pub(super) fn start(gate: &Arc<Gate>, listener: Listener) -> Result<(), Error> {
    let gate = gate.clone();
    let connections = Arc::new(Connections::default());
    let started = thread::Builder::new().name("accept".into()).spawn(move || {
        loop {
            match accept(&listener) {
                Ok(stream) => admit(&gate, &connections, stream),
                // No descriptors left, most likely: who is inside will give some back.
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    });
    started.map(drop).map_err(|source| Error::Io {
        doing: "start a thread of",
        path: "this process".into(),
        source,
    })
}

fn accept(listener: &Listener) -> io::Result<Stream> {
    match listener {
        Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
    }
}

fn admit(gate: &Arc<Gate>, connections: &Arc<Connections>, stream: Stream) {
    if let Stream::Unix(unix) = &stream {
        let own = nix::unistd::geteuid().as_raw();
        let may = Peer::of(unix).is_ok_and(|peer| peer.may(own, &gate.daemon.allow()));
        if !may {
            LIFE.refused(Refusal::Denied);
            return turn_away(stream, &problem::forbidden());
        }
    }
    let most = gate.daemon.limits().connections;
    if let Err(stream) = connections.enter(gate, stream, most) {
        LIFE.refused(Refusal::Full);
        turn_away(stream, &problem::busy("all connections are taken"));
    }
}

impl Converse for Gate {
    fn converse(&self, conn: Conn, open: bool, slot: &Slot<'_>) {
        converse(self, conn, open, slot);
    }
}

/// Answers one request after the other.
fn converse(gate: &Gate, mut conn: Conn, open: bool, slot: &Slot<'_>) {
    loop {
        slot.waits();
        let next = conn.next();
        slot.is_busy();
        let request = match next {
            Next::Request(mut request) => {
                request.peer = match request.param("wait").is_some() || !request.files.is_empty() {
                    true => conn.peer(),
                    false => None,
                };
                request
            }
            Next::Reject(reject) => {
                let slow = reject.status == 408;
                LIFE.refused(if slow { Refusal::Slow } else { Refusal::Malformed });
                LIFE.answered(reject.status);
                conn.answer(&problem::rejected(&reject), false, false);
                return conn.close();
            }
            Next::Gone => return,
        };
        let known = gate.known(request.token.as_deref());
        if known != Known::Not {
            slot.is_known();
        }
        let may = if open || api::is_for_all(&request) { Known::All } else { known };
        let reads = matches!(request.method, Some(Method::Get | Method::Head));
        let response = match may {
            Known::All => api::answer(&gate.daemon, &request),
            Known::Reads if reads => api::answer(&gate.daemon, &request),
            Known::Reads => problem::only_reads(),
            Known::Not => problem::unauthorized("no token, or not the right one"),
        };
        LIFE.answered(response.status);
        if response.status == 401 {
            LIFE.refused(Refusal::Denied);
        }
        let keep_alive = request.keep_alive && response.status != 401;
        let head = request.method == Some(Method::Head);
        if !conn.answer(&response, keep_alive, head) {
            return conn.close();
        }
    }
}
