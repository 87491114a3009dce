//! What a key lets its owner do, through every method and every route that the doors tell of: each needs its scope, and
//! another project's things are as if they did not exist. What is added to a door and stands in no table here fails.

mod methods;
mod routes;

use cuitty_webhooks_proto::v1::event_type_service_client::EventTypeServiceClient;
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, CreateEventTypeRequest, DeliverRequest, EventType, GetDeliveryRequest,
    StartReplayRequest,
};
use harness::app::TestApp;
use harness::eventually::eventually;
use harness::roles::ADMIN_KEY;

/// The project of the keys.
const OURS: &str = "alpha";
/// Another one, and one that does not exist.
const THEIRS: &str = "omega";
const NOBODYS: &str = "sigma";
/// An event type that is made by whoever may.
const MADE_HERE: &str = "made.here";

/// Something of every kind that a caller can name. Ids of one kind are equally long, so that answers can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ids {
    /// Empty: left out.
    project: String,
    endpoint: String,
    secret: String,
    delivery: String,
    replay: String,
    key: String,
    event_type: String,
}

impl Ids {
    /// Nothing has these.
    fn unknown() -> Self {
        Self {
            project: NOBODYS.into(),
            endpoint: "ep_01h455vb4pex5vsknk084sn02q".into(),
            secret: "sec_01h455vb4pex5vsknk084sn02q".into(),
            delivery: "dlv_01h455vb4pex5vsknk084sn02q".into(),
            replay: "rpl_01h455vb4pex5vsknk084sn02q".into(),
            key: "key_01h455vb4pex5vsknk084sn02q".into(),
            event_type: format!("{NOBODYS}.created"),
        }
    }

    /// Makes one of each in `project`.
    async fn of(app: &TestApp, project: &str) -> Self {
        let request = CreateEndpointRequest {
            project_id: project.into(),
            url: "http://127.0.0.1:9/unused".into(),
            ..Default::default()
        };
        let endpoint = app.endpoints().create_endpoint(request).await.unwrap();
        let endpoint = endpoint.into_inner().endpoint.unwrap();
        let request = DeliverRequest {
            project_id: project.into(),
            event_type: "order.paid".into(),
            payload: "{}".into(),
            ..Default::default()
        };
        let accepted = app.messages().deliver(request).await.unwrap().into_inner();
        let delivery = accepted.deliveries[0].id.clone();
        eventually("the history knows the delivery", || async {
            let request = GetDeliveryRequest {
                delivery_id: delivery.clone(),
                ..Default::default()
            };
            app.deliveries().get_delivery(request).await
        })
        .await;
        let request = StartReplayRequest {
            project_id: project.into(),
            ..Default::default()
        };
        let replay = app.deliveries().start_replay(request).await.unwrap();
        let key = app.create_key(project, &["read"]).await.api_key.unwrap();
        let event_type = EventType {
            project_id: project.into(),
            name: format!("{project}.created"),
            ..Default::default()
        };
        let request = CreateEventTypeRequest {
            event_type: Some(event_type),
        };
        let mut event_types = EventTypeServiceClient::new(app.channel(Some(ADMIN_KEY)));
        let event_type = event_types.create_event_type(request).await.unwrap();
        Self {
            project: project.into(),
            endpoint: endpoint.id,
            secret: endpoint.secrets[0].id.clone(),
            delivery,
            replay: replay.into_inner().id,
            key: key.id,
            event_type: event_type.into_inner().name,
        }
    }

    /// The same, with the project left out.
    fn of_the_key(self) -> Self {
        Self {
            project: String::new(),
            ..self
        }
    }

    /// The same with one part of `other`, for each part, and all of `other`.
    fn with_parts_of(&self, other: &Self) -> Vec<Self> {
        let mut mixed = vec![self.clone(); 7];
        mixed[0].project.clone_from(&other.project);
        mixed[1].endpoint.clone_from(&other.endpoint);
        mixed[2].secret.clone_from(&other.secret);
        mixed[3].delivery.clone_from(&other.delivery);
        mixed[4].replay.clone_from(&other.replay);
        mixed[5].key.clone_from(&other.key);
        mixed[6].event_type.clone_from(&other.event_type);
        mixed.push(other.clone());
        mixed
    }

    /// `text` with what stands here replaced by the names of its kinds.
    fn blur(&self, text: &str) -> String {
        let Self {
            project,
            endpoint,
            secret,
            delivery,
            replay,
            key,
            event_type,
        } = self;
        [
            (event_type, "<event type>"),
            (project, "<project>"),
            (endpoint, "<endpoint>"),
            (secret, "<secret>"),
            (delivery, "<delivery>"),
            (replay, "<replay>"),
            (key, "<key>"),
        ]
        .into_iter()
        .filter(|(id, _)| !id.is_empty())
        .fold(text.to_owned(), |text, (id, name)| text.replace(id, name))
    }
}

/// One of each in two projects, and a key of the first that is good for everything in it.
async fn two_projects(app: &TestApp) -> (Ids, Ids, String) {
    let (ours, theirs) = (Ids::of(app, OURS).await, Ids::of(app, THEIRS).await);
    let key = app.create_key(OURS, &["admin"]).await.secret;
    (ours.of_the_key(), theirs, key)
}

/// A key for each scope alone, in a project that exists.
async fn a_key_of_each_scope(app: &TestApp) -> Vec<(&'static str, String)> {
    Ids::of(app, OURS).await;
    let mut keys = Vec::new();
    for scope in ["deliver", "read", "manage", "admin"] {
        keys.push((scope, app.create_key(OURS, &[scope]).await.secret));
    }
    keys
}
