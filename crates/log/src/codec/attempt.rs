//! The record of one attempt.

use std::time::Duration;

use cuitty_webhooks_domain::attempt::{
    Attempt, AttemptError, AttemptRequest, AttemptResponse, ErrorClass, Header, Timing,
};
use cuitty_webhooks_proto::events::v1 as stored;

use super::fields::{enumerated, micros, parse, parse_optional, required, time};
use crate::codec::CodecError;

pub(super) fn encode_attempt(attempt: &Attempt) -> stored::Attempt {
    stored::Attempt {
        number: attempt.number,
        started_at_us: attempt.started_at.timestamp_micros(),
        duration_us: micros(attempt.duration),
        request: Some(stored::AttemptRequest {
            url: attempt.request.url.clone(),
            headers: encode_headers(&attempt.request.headers),
            signed_with: attempt
                .request
                .signed_with
                .iter()
                .map(ToString::to_string)
                .collect(),
        }),
        response: attempt.response.as_ref().map(|response| stored::AttemptResponse {
            status: response.status.into(),
            headers: encode_headers(&response.headers),
            body: response.body.clone(),
            body_truncated: response.body_truncated,
        }),
        error: attempt.error.as_ref().map(|error| stored::AttemptError {
            class: encode_class(error.class).into(),
            message: error.message.clone(),
        }),
        timing: Some(stored::Timing {
            queue_us: micros(attempt.timing.queue),
            dns_us: attempt.timing.dns.map(micros),
            connect_us: attempt.timing.connect.map(micros),
            tls_us: attempt.timing.tls.map(micros),
            first_byte_us: attempt.timing.first_byte.map(micros),
        }),
        remote_address: attempt
            .remote_address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        endpoint_revision: attempt.endpoint_revision,
        dispatcher_id: attempt.dispatcher_id.clone(),
        trace_id: attempt.trace_id.clone(),
    }
}

pub(super) fn decode_attempt(attempt: stored::Attempt) -> Result<Attempt, CodecError> {
    let timing = attempt.timing.unwrap_or_default();
    Ok(Attempt {
        number: attempt.number,
        started_at: time("attempt.started_at_us", attempt.started_at_us)?,
        duration: Duration::from_micros(attempt.duration_us),
        request: decode_request(required("attempt.request", attempt.request)?)?,
        response: attempt.response.map(decode_response).transpose()?,
        error: attempt.error.map(decode_error).transpose()?,
        timing: Timing {
            queue: Duration::from_micros(timing.queue_us),
            dns: timing.dns_us.map(Duration::from_micros),
            connect: timing.connect_us.map(Duration::from_micros),
            tls: timing.tls_us.map(Duration::from_micros),
            first_byte: timing.first_byte_us.map(Duration::from_micros),
        },
        remote_address: parse_optional("attempt.remote_address", &attempt.remote_address)?,
        endpoint_revision: attempt.endpoint_revision,
        dispatcher_id: attempt.dispatcher_id,
        trace_id: attempt.trace_id,
    })
}

fn decode_request(request: stored::AttemptRequest) -> Result<AttemptRequest, CodecError> {
    Ok(AttemptRequest {
        url: request.url,
        headers: decode_headers(request.headers),
        signed_with: request
            .signed_with
            .iter()
            .map(|id| parse("attempt.request.signed_with", id))
            .collect::<Result<_, _>>()?,
    })
}

fn decode_response(response: stored::AttemptResponse) -> Result<AttemptResponse, CodecError> {
    let status = u16::try_from(response.status).map_err(|_| CodecError::Invalid {
        field: "attempt.response.status",
        message: format!("{} is out of range", response.status),
    })?;
    Ok(AttemptResponse {
        status,
        headers: decode_headers(response.headers),
        body: response.body,
        body_truncated: response.body_truncated,
    })
}

fn decode_error(error: stored::AttemptError) -> Result<AttemptError, CodecError> {
    let class = enumerated("attempt.error.class", error.class, decode_class)?;
    Ok(AttemptError {
        class,
        message: error.message,
    })
}

pub(super) fn encode_headers(headers: &[Header]) -> Vec<stored::Header> {
    headers
        .iter()
        .map(|h| stored::Header {
            name: h.name.clone(),
            value: h.value.clone(),
        })
        .collect()
}

pub(super) fn decode_headers(headers: Vec<stored::Header>) -> Vec<Header> {
    headers
        .into_iter()
        .map(|stored::Header { name, value }| Header { name, value })
        .collect()
}

fn encode_class(class: ErrorClass) -> stored::ErrorClass {
    match class {
        ErrorClass::Dns => stored::ErrorClass::Dns,
        ErrorClass::BlockedAddress => stored::ErrorClass::BlockedAddress,
        ErrorClass::Connect => stored::ErrorClass::Connect,
        ErrorClass::Tls => stored::ErrorClass::Tls,
        ErrorClass::Timeout => stored::ErrorClass::Timeout,
        ErrorClass::Reset => stored::ErrorClass::Reset,
        ErrorClass::Protocol => stored::ErrorClass::Protocol,
        ErrorClass::TooSlow => stored::ErrorClass::TooSlow,
        ErrorClass::Status => stored::ErrorClass::Status,
        ErrorClass::Redirect => stored::ErrorClass::Redirect,
        ErrorClass::Configuration => stored::ErrorClass::Configuration,
    }
}

fn decode_class(class: stored::ErrorClass) -> Option<ErrorClass> {
    Some(match class {
        stored::ErrorClass::Unspecified => return None,
        stored::ErrorClass::Dns => ErrorClass::Dns,
        stored::ErrorClass::BlockedAddress => ErrorClass::BlockedAddress,
        stored::ErrorClass::Connect => ErrorClass::Connect,
        stored::ErrorClass::Tls => ErrorClass::Tls,
        stored::ErrorClass::Timeout => ErrorClass::Timeout,
        stored::ErrorClass::Reset => ErrorClass::Reset,
        stored::ErrorClass::Protocol => ErrorClass::Protocol,
        stored::ErrorClass::TooSlow => ErrorClass::TooSlow,
        stored::ErrorClass::Status => ErrorClass::Status,
        stored::ErrorClass::Redirect => ErrorClass::Redirect,
        stored::ErrorClass::Configuration => ErrorClass::Configuration,
    })
}
