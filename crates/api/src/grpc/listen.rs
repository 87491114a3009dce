//! `ListenService`.

use std::pin::Pin;

use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::listen_request::Request as Said;
use cuitty_webhooks_proto::v1::listen_response::Response as Told;
use cuitty_webhooks_proto::v1::listen_service_server::ListenService;
use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{Door, caller_of};
use crate::app::{Brought, ListenAnswer, Listening, NewListener};
use crate::error::AppError;

#[tonic::async_trait]
impl ListenService for Door {
    type ListenStream = Pin<Box<dyn Stream<Item = Result<v1::ListenResponse, Status>> + Send>>;

    async fn listen(
        &self,
        request: Request<Streaming<v1::ListenRequest>>,
    ) -> Result<Response<Self::ListenStream>, Status> {
        let caller = caller_of(&request)?;
        let mut said = request.into_inner();
        let first = said.message().await?.and_then(|message| message.request);
        let Some(Said::Start(start)) = first else {
            return Err(refused("must be the first message").into());
        };
        let new = NewListener {
            project_id: start.project_id,
            event_types: start.event_types,
        };
        // A caller whose connection breaks has nothing more to say.
        let said = said.take_while(|message| std::future::ready(message.is_ok()));
        let answers = said.filter_map(|message| std::future::ready(message.ok().map(read_answer)));
        let listening = Box::pin(self.app.listen(&caller, new, answers)).await?;
        let Listening {
            endpoint,
            signing_secret,
            log_sequence,
            deliveries,
        } = listening;
        let started = told(Told::Started(v1::CreateEndpointResponse {
            endpoint: Some(self.shown(&endpoint)),
            signing_secret: signing_secret.expose().to_string(),
            log_sequence,
        }));
        let brought = stream::unfold(deliveries, async |mut deliveries| {
            let brought = deliveries.recv().await?;
            let brought = brought.map(|brought| told(Told::Delivery(brought.into())));
            Some((brought.map_err(Status::from), deliveries))
        });
        let answers = stream::once(std::future::ready(Ok(started))).chain(brought);
        Ok(Response::new(Box::pin(answers)))
    }
}

fn read_answer(message: v1::ListenRequest) -> Result<ListenAnswer, AppError> {
    match message.request {
        Some(Said::Answer(v1::ListenAnswer { tag, error })) => Ok(ListenAnswer { tag, error }),
        Some(Said::Start(_)) => Err(refused("is given twice")),
        None => Err(AppError::from(Rejection::field(
            "answer",
            "must be every message after the first",
        ))),
    }
}

fn refused(what: &str) -> AppError {
    Rejection::field("start", what).into()
}

fn told(response: Told) -> v1::ListenResponse {
    v1::ListenResponse {
        response: Some(response),
    }
}

impl From<Brought> for v1::ListenDelivery {
    fn from(Brought { tag, notified, .. }: Brought) -> Self {
        let headers = notified.headers.into_iter();
        Self {
            tag,
            headers: headers.map(|(name, value)| v1::Header { name, value }).collect(),
            payload: notified.payload,
        }
    }
}
