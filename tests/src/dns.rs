//! A DNS server that answers what a script tells it to, over UDP and TCP.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::background::Background;
use crate::ports::free_address;

pub use hickory_proto::rr::RecordType;

/// What the server says about a name.
#[derive(Debug, Clone)]
pub struct Answer {
    content: Content,
    ttl: u32,
    truncated: bool,
}

#[derive(Debug, Clone)]
enum Content {
    /// Those of the family that is asked for; maybe none.
    Addresses(Vec<IpAddr>),
    /// Another name, with what the script says about that one.
    Alias(String),
    Error(ResponseCode),
    Silence,
}

impl Answer {
    /// These addresses, with a time to live of 0: nobody may keep them.
    ///
    /// # Panics
    /// When one of them is no IP address.
    pub fn addresses<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let addresses = addresses
            .into_iter()
            .map(|text| text.parse().expect("an IP address"))
            .collect();
        Self::new(Content::Addresses(addresses))
    }

    /// A CNAME that leads to `name`, and the records of that name.
    pub fn alias(name: &str) -> Self {
        Self::new(Content::Alias(name.to_owned()))
    }

    /// There is no such name.
    pub fn no_such_name() -> Self {
        Self::new(Content::Error(ResponseCode::NXDomain))
    }

    /// The server cannot answer (SERVFAIL).
    pub fn failure() -> Self {
        Self::new(Content::Error(ResponseCode::ServFail))
    }

    /// Nothing, ever.
    pub fn silence() -> Self {
        Self::new(Content::Silence)
    }

    fn new(content: Content) -> Self {
        Self {
            content,
            ttl: 0,
            truncated: false,
        }
    }

    /// With this time to live, in seconds.
    #[must_use]
    pub fn ttl(mut self, seconds: u32) -> Self {
        self.ttl = seconds;
        self
    }

    /// Too long for UDP: whoever asks is told to ask again over TCP.
    #[must_use]
    pub fn truncated(mut self) -> Self {
        self.truncated = true;
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// What is said about one type of records of one name.
#[derive(Debug, Default)]
struct Track {
    answers: VecDeque<Answer>,
    queries: usize,
    /// The id of the last query, and what it got.
    last: Option<(u16, Answer)>,
}

impl Track {
    /// The answer to a query. One that is sent again, or again over TCP, is no other query and gets no other answer.
    fn next(&mut self, id: u16, transport: Transport) -> Option<Answer> {
        if let Some((last, answer)) = &self.last
            && (*last == id || transport == Transport::Tcp && answer.truncated)
        {
            return Some(answer.clone());
        }
        let next = if self.answers.len() <= 1 {
            self.answers.front().cloned()
        } else {
            self.answers.pop_front()
        }?;
        self.queries += 1;
        self.last = Some((id, next.clone()));
        Some(next)
    }
}

type Tracks = HashMap<(String, RecordType), Track>;

/// A DNS server on a free port of 127.0.0.1, on a thread of its own. It knows no names but those of its script.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    tracks: Arc<Mutex<Tracks>>,
    _thread: Background,
}

impl DnsServer {
    /// Starts a server with an empty script.
    pub fn start() -> Self {
        let (address, udp, tcp) = bind();
        let tracks = Arc::<Mutex<Tracks>>::default();
        let served = Arc::clone(&tracks);
        let thread = Background::spawn("dns", move |stop| serve(udp, tcp, served, stop));
        Self {
            address,
            tracks,
            _thread: thread,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is said about the addresses of `name` from now on: the answers in turn, the last one for ever. Those to A and
    /// to AAAA take their turns apart, so that one look at the name takes one answer of each.
    pub fn script(&self, name: &str, answers: impl IntoIterator<Item = Answer>) {
        let answers: Vec<_> = answers.into_iter().collect();
        self.script_type(name, RecordType::A, answers.clone());
        self.script_type(name, RecordType::AAAA, answers);
    }

    /// [`Self::script`] of one type of records.
    pub fn script_type(&self, name: &str, kind: RecordType, answers: impl IntoIterator<Item = Answer>) {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let track = tracks.entry((name.to_owned(), kind)).or_default();
        track.answers = answers.into_iter().collect();
    }

    /// How often `name` was asked for this type of records. A query that was sent again counts once.
    pub fn queries(&self, name: &str, kind: RecordType) -> usize {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks
            .get(&(name.to_owned(), kind))
            .map_or(0, |track| track.queries)
    }
}

/// Both transports on one port.
fn bind() -> (SocketAddr, std::net::UdpSocket, std::net::TcpListener) {
    loop {
        // Free for TCP; a client may have taken it for UDP.
        let address = free_address();
        let bound = std::net::UdpSocket::bind(address)
            .and_then(|udp| Ok((udp, std::net::TcpListener::bind(address)?)))
            .and_then(|(udp, tcp)| {
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                Ok((udp, tcp))
            });
        if let Ok((udp, tcp)) = bound {
            return (address, udp, tcp);
        }
    }
}

async fn serve(
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    tracks: Arc<Mutex<Tracks>>,
    stop: CancellationToken,
) {
    let udp = UdpSocket::from_std(udp).expect("a socket");
    let tcp = TcpListener::from_std(tcp).expect("a listener");
    let mut query = [0; 4096];
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Ok((length, from)) = udp.recv_from(&mut query) => {
                if let Some(response) = respond(&query[..length], &tracks, Transport::Udp) {
                    let _ = udp.send_to(&response, from).await;
                }
            }
            // Connections end with the runtime of this thread.
            Ok((stream, _)) = tcp.accept() => {
                tokio::spawn(serve_tcp(stream, Arc::clone(&tracks)));
            }
        }
    }
}

/// Messages with their length in front, until the peer closes.
async fn serve_tcp(mut stream: TcpStream, tracks: Arc<Mutex<Tracks>>) -> io::Result<()> {
    loop {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        if let Some(response) = respond(&query, &tracks, Transport::Tcp) {
            stream.write_u16(response.len() as u16).await?;
            stream.write_all(&response).await?;
        }
    }
}

/// What is sent back; nothing when the script says so, or when it is no query.
fn respond(query: &[u8], tracks: &Mutex<Tracks>, transport: Transport) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let id = query.metadata.id;
    let mut response = Message::response(id, OpCode::Query);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    let (mut name, kind) = (question.name().clone(), question.query_type());
    response.add_query(question);

    let mut tracks = tracks.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let key = name.to_lowercase().to_ascii().trim_end_matches('.').to_owned();
        let track = tracks.get_mut(&(key, kind));
        let answer = track.and_then(|track| track.next(id, transport));
        let Some(answer) = answer else {
            response.metadata.response_code = ResponseCode::NXDomain;
            break;
        };
        if answer.truncated && transport == Transport::Udp {
            response.metadata.truncation = true;
            break;
        }
        match answer.content {
            Content::Addresses(addresses) => {
                let records = addresses.into_iter().map(RData::from);
                let asked_for = records.filter(|record| record.record_type() == kind);
                response.add_answers(
                    asked_for.map(|record| Record::from_rdata(name.clone(), answer.ttl, record)),
                );
                break;
            }
            Content::Alias(target) => {
                let target = Name::from_ascii(target + ".").expect("a name");
                let record = RData::CNAME(CNAME(target.clone()));
                response.add_answer(Record::from_rdata(name, answer.ttl, record));
                name = target;
            }
            Content::Error(code) => {
                response.metadata.response_code = code;
                break;
            }
            Content::Silence => return None,
        }
    }
    Some(response.to_vec().expect("a message"))
}
