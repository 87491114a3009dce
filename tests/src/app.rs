//! A whole installation for one test, and the calls that most tests make.

use cuitty_webhooks_proto::v1::api_key_service_client::ApiKeyServiceClient;
use cuitty_webhooks_proto::v1::delivery_service_client::DeliveryServiceClient;
use cuitty_webhooks_proto::v1::endpoint_service_client::EndpointServiceClient;
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::status_service_client::StatusServiceClient;
use cuitty_webhooks_proto::v1::{
    CreateApiKeyRequest, CreateApiKeyResponse, CreateEndpointRequest, CreateEndpointResponse, DeliverRequest,
    DeliverResponse, Delivery, DeliveryDetail, DeliveryStatus, Endpoint, GetDeliveryRequest,
    UpdateEndpointRequest,
};
use prost_types::FieldMask;
use serde_json::Value;
use tempfile::TempDir;
use tonic::Status;

use crate::eventually::eventually;
use crate::grpc::{Authorized, authorized_lazily};
use crate::local::LocalRoles;
use crate::nats::{NatsServer, OPERATOR, inbox_of};
use crate::postgres::PostgresCluster;
use crate::rest::RestClient;
use crate::roles::{ADMIN_KEY, RoleProcess, Settings, command};
use cuitty_webhooks_server::roles::Role;

/// The project that tests work in.
pub const PROJECT: &str = "acme";

/// Where the history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A SQLite file.
    Sqlite,
    /// A database of the shared PostgreSQL cluster.
    Postgres,
}

/// An installation: a nats-server, a history, and the roles. All of it ends with this value.
#[derive(Debug)]
pub struct TestApp {
    /// The processes, in the order in which they were given; none when the roles run in this process. The first one
    /// with `api` answers calls.
    pub roles: Vec<RoleProcess>,
    _local: Option<LocalRoles>,
    /// What they are configured with.
    pub settings: Settings,
    /// The log.
    pub nats: NatsServer,
    url: String,
    history_url: String,
    _dir: TempDir,
}

/// What a [`TestApp`] is to consist of.
#[derive(Debug, Clone)]
pub struct Builder {
    backend: Backend,
    /// Overrides `backend`.
    history_url: Option<String>,
    /// None: all roles in this process.
    processes: Vec<String>,
    settings: Vec<(String, String)>,
    /// With a user of nats-server for each process.
    accounts: bool,
}

impl Builder {
    /// With its history there.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// With its history at this URL, where nobody may answer: processes are ready without it.
    #[must_use]
    pub fn history_at(mut self, url: &str) -> Self {
        self.history_url = Some(url.to_owned());
        self
    }

    /// With a real process for each of these comma-separated lists of roles, instead of all roles in this one.
    #[must_use]
    pub fn processes<'a>(mut self, roles: impl IntoIterator<Item = &'a str>) -> Self {
        self.processes = roles.into_iter().map(str::to_owned).collect();
        self
    }

    /// With the deployment's accounts on nats-server, streams made by the operator, and each process logged in as the user of
    /// its role.
    #[must_use]
    pub fn accounts(mut self) -> Self {
        self.accounts = true;
        self
    }

    /// With this value of `section.key`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> TestApp {
        let nats = if self.accounts {
            NatsServer::start_with_accounts().await
        } else {
            NatsServer::start().await
        };
        self.start_on(nats).await
    }

    /// [`Self::start`] on a nats-server that runs already, whatever its streams hold.
    pub async fn start_on(self, nats: NatsServer) -> TestApp {
        let dir = tempfile::tempdir().expect("make a directory");
        let history_url = match (&self.history_url, self.backend) {
            (Some(url), _) => url.clone(),
            (None, Backend::Sqlite) => format!("sqlite:{}", dir.path().join("history.db").display()),
            (None, Backend::Postgres) => PostgresCluster::shared().await.database().await,
        };
        let settings = Settings::new(&nats.url(), &history_url);
        let settings = self
            .settings
            .iter()
            .fold(settings, |settings, (key, value)| settings.set(key, value));
        let local = self.processes.is_empty().then(|| {
            // Blocks until they are ready, while nothing on this runtime has to go on.
            LocalRoles::start(&Role::ALL, &settings)
        });
        let roles: Vec<_> = self
            .processes
            .iter()
            .map(|roles| {
                if self.accounts {
                    RoleProcess::spawn(roles, &logged_in(&settings, &nats, &format!("webhooks-{roles}")))
                } else {
                    RoleProcess::spawn(roles, &settings)
                }
            })
            .collect();
        if self.accounts {
            let operator = logged_in(&settings, &nats, OPERATOR);
            let made = command(&["topology", "apply"], &operator);
            assert!(made.status.success(), "{made:?}");
        }
        for process in &roles {
            if self.history_url.is_some() {
                process.ready_without_history().await;
            } else {
                process.ready().await;
            }
        }
        let api = self.processes.iter().position(|roles| roles.contains("api"));
        let url = api.map(|index| roles[index].url());
        let url = url.or_else(|| local.as_ref()?.url()).unwrap_or_default();
        TestApp {
            roles,
            _local: local,
            settings,
            nats,
            url,
            history_url,
            _dir: dir,
        }
    }
}

impl TestApp {
    /// All roles in this process, on SQLite.
    pub fn builder() -> Builder {
        Builder {
            backend: Backend::Sqlite,
            history_url: None,
            processes: Vec::new(),
            settings: Vec::new(),
            accounts: false,
        }
    }

    /// [`Self::builder`], started.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Where gRPC and REST are served: `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the history is kept.
    pub fn history_url(&self) -> &str {
        &self.history_url
    }

    /// REST with the admin key.
    pub fn rest(&self) -> RestClient {
        RestClient::new(&self.url, Some(ADMIN_KEY))
    }

    /// A channel with another key, or none.
    pub fn channel(&self, key: Option<&str>) -> Authorized {
        authorized_lazily(&self.url, key).expect("a URL")
    }

    /// `EndpointService` with the admin key.
    pub fn endpoints(&self) -> EndpointServiceClient<Authorized> {
        EndpointServiceClient::new(self.channel(Some(ADMIN_KEY)))
    }

    /// `MessageService` with the admin key.
    pub fn messages(&self) -> MessageServiceClient<Authorized> {
        MessageServiceClient::new(self.channel(Some(ADMIN_KEY)))
    }

    /// `DeliveryService` with the admin key.
    pub fn deliveries(&self) -> DeliveryServiceClient<Authorized> {
        DeliveryServiceClient::new(self.channel(Some(ADMIN_KEY)))
    }

    /// `ApiKeyService` with the admin key.
    pub fn api_keys(&self) -> ApiKeyServiceClient<Authorized> {
        ApiKeyServiceClient::new(self.channel(Some(ADMIN_KEY)))
    }

    /// Makes an API key, of all projects when `project_id` is empty.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create_key(&self, project_id: &str, scopes: &[&str]) -> CreateApiKeyResponse {
        let request = CreateApiKeyRequest {
            project_id: project_id.into(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let created = self.api_keys().create_api_key(request).await;
        created.expect("create a key").into_inner()
    }

    /// `StatusService` without a key.
    pub fn status(&self) -> StatusServiceClient<Authorized> {
        StatusServiceClient::new(self.channel(None))
    }

    /// Creates an endpoint of [`PROJECT`].
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create_endpoint(&self, request: CreateEndpointRequest) -> CreateEndpointResponse {
        let request = CreateEndpointRequest {
            project_id: PROJECT.into(),
            ..request
        };
        self.endpoints()
            .create_endpoint(request)
            .await
            .expect("create an endpoint")
            .into_inner()
    }

    /// Creates an endpoint of [`PROJECT`] that takes every event type.
    pub async fn create_endpoint_at(&self, url: String) -> CreateEndpointResponse {
        self.create_endpoint(CreateEndpointRequest {
            url,
            ..Default::default()
        })
        .await
    }

    /// Enables or disables an endpoint.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn set_active(&self, endpoint_id: &str, active: bool) -> Endpoint {
        let request = UpdateEndpointRequest {
            endpoint: Some(Endpoint {
                id: endpoint_id.to_owned(),
                active,
                ..Default::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec!["active".into()],
            }),
            ..Default::default()
        };
        let updated = self.endpoints().update_endpoint(request).await;
        updated.expect("enable or disable an endpoint").into_inner()
    }

    /// Delivers an event of [`PROJECT`].
    ///
    /// # Panics
    /// When it is refused.
    pub async fn deliver(&self, event_type: &str, payload: &Value) -> DeliverResponse {
        let request = event(event_type, payload.to_string());
        self.messages()
            .deliver(request)
            .await
            .expect("deliver")
            .into_inner()
    }

    /// The one of these places in [`Self::roles`] where the dispatcher is that holds the only partition.
    ///
    /// # Panics
    /// When that does not settle in time.
    pub async fn owner(&self, dispatchers: &[usize]) -> usize {
        eventually("one dispatcher holds the partition", || async {
            let mut owners = Vec::new();
            for &index in dispatchers {
                if self.roles[index].metric("webhooks_membership_partitions").await > 0.0 {
                    owners.push(index);
                }
            }
            if let [owner] = owners[..] {
                Ok(owner)
            } else {
                Err(owners)
            }
        })
        .await
    }

    /// A delivery, as soon as the history knows it.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub async fn delivery(&self, id: &str) -> DeliveryDetail {
        eventually(&format!("the history knows {id}"), || self.try_delivery(id)).await
    }

    /// A delivery, as soon as it has ended.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub async fn ended(&self, id: &str) -> DeliveryDetail {
        eventually(&format!("{id} ends"), || async {
            let detail = self.try_delivery(id).await?;
            let status = summary(&detail).status();
            if status == DeliveryStatus::Pending {
                Err(Status::unavailable("pending"))
            } else {
                Ok(detail)
            }
        })
        .await
    }

    async fn try_delivery(&self, id: &str) -> Result<DeliveryDetail, Status> {
        let request = GetDeliveryRequest {
            delivery_id: id.to_owned(),
            ..Default::default()
        };
        Ok(self.deliveries().get_delivery(request).await?.into_inner())
    }
}

/// The settings of a process that logs in as `user`, whose name is its password.
pub fn logged_in(settings: &Settings, nats: &NatsServer, user: &str) -> Settings {
    settings
        .clone()
        .set("log.url", nats.url_of(user))
        .set("log.inbox_prefix", inbox_of(user))
        .set("log.manage_topology", false)
}

/// An event of [`PROJECT`].
pub fn event(event_type: &str, payload: impl Into<bytes::Bytes>) -> DeliverRequest {
    DeliverRequest {
        project_id: PROJECT.into(),
        event_type: event_type.into(),
        payload: payload.into(),
        ..DeliverRequest::default()
    }
}

/// The part of a delivery that lists show too.
///
/// # Panics
/// When it is missing.
pub fn summary(detail: &DeliveryDetail) -> &Delivery {
    detail.delivery.as_ref().expect("a delivery")
}
