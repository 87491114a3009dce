//! What kind of error a request ended with. Told by types, never by text.

use std::error::Error;
use std::io;

use cuitty_webhooks_domain::attempt::ErrorClass;
use tokio_rustls::rustls;

use super::connector::ConnectError;

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Why no connection was made, if that is what the error is about.
pub(super) fn connect_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ConnectError> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

/// The class of an error on a connection, and a text for a person.
pub(super) fn request_error(error: &(dyn Error + 'static)) -> (ErrorClass, &'static str) {
    if chain(error).any(is_tls) {
        return (ErrorClass::Tls, "the TLS session failed");
    }
    let hyper = chain(error).find_map(|cause| cause.downcast_ref::<hyper::Error>());
    match hyper {
        Some(cause) if cause.is_parse() => (ErrorClass::Protocol, "the response is not valid HTTP"),
        Some(cause) if cause.is_timeout() => (ErrorClass::Timeout, "the connection timed out"),
        Some(cause) if cause.is_incomplete_message() || cause.is_canceled() || cause.is_closed() => (
            ErrorClass::Reset,
            "the connection was closed before the response was complete",
        ),
        _ if chain(error).any(<dyn Error>::is::<io::Error>) => (
            ErrorClass::Reset,
            "the connection was reset before the response was complete",
        ),
        _ => (ErrorClass::Protocol, "the peer broke the protocol"),
    }
}

/// rustls reports its errors inside of IO errors, whose `source` leaves them out.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
}
