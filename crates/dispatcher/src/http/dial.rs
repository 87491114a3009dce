//! Connects to one of several addresses, in the manner of RFC 8305 ("happy eyeballs"): the families take turns, and the
//! next address is tried when the one before has failed or has not answered within a moment.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long an address is tried before the next one joins in (RFC 8305, section 8).
const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses that are tried. The owner of a name chooses how many there are: thousands would make every attempt a scan
/// of somebody else's network.
const MOST_TRIED: usize = 8;

/// Connects to `port` of the first of `addresses` that answers, of the first few that there are; the last error when none
/// does.
pub(super) async fn dial(addresses: &[IpAddr], port: u16) -> io::Result<(TcpStream, SocketAddr)> {
    let mut addresses = interleaved(addresses);
    addresses.truncate(MOST_TRIED);
    let mut waiting = addresses.into_iter();
    let mut dialling = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            dialling.push(connect(SocketAddr::new(address, port)));
        }
        let has_more = waiting.len() > 0;
        tokio::select! {
            Some(connected) = dialling.next() => match connected {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = error,
            },
            () = sleep(STAGGER), if has_more => {}
            else => return Err(failure),
        }
        if dialling.is_empty() && !has_more {
            return Err(failure);
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok((tcp, address))
}

/// The addresses with the families taking turns, beginning with that of the first one.
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let Some(first) = addresses.first() else {
        return Vec::new();
    };
    let (same, other): (Vec<IpAddr>, Vec<IpAddr>) = addresses
        .iter()
        .partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut mixed = Vec::with_capacity(addresses.len());
    while mixed.len() < addresses.len() {
        mixed.extend(same.next());
        mixed.extend(other.next());
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (a, b, c) = (
            address("2001:db8::1"),
            address("2001:db8::2"),
            address("192.0.2.1"),
        );
        assert_eq!(interleaved(&[a, b, c]), [a, c, b]);
        assert_eq!(interleaved(&[c]), [c]);
        assert_eq!(interleaved(&[]), [] as [IpAddr; 0]);
    }

    #[tokio::test]
    async fn no_more_than_a_few_addresses_are_tried() {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refusing = (0..MOST_TRIED as u8).map(|last| IpAddr::from([127, 0, 1, last]));
        let mut addresses: Vec<_> = refusing.chain(["127.0.0.2".parse().unwrap()]).collect();
        assert_eq!(
            dial(&addresses, port).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        addresses.remove(0);
        assert_eq!(
            dial(&addresses, port).await.unwrap().1,
            listener.local_addr().unwrap()
        );
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let addresses = ["127.0.0.3", "127.0.0.2"].map(|text| text.parse().unwrap());
        let (_, remote) = dial(&addresses, port).await.unwrap();
        assert_eq!(remote, listener.local_addr().unwrap());
        let error = dial(&addresses[..1], port).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(
            dial(&[], port).await.unwrap_err().kind(),
            io::ErrorKind::AddrNotAvailable
        );
    }
}
