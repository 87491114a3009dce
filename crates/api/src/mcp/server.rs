//! What an MCP client finds: who serves, which tools there are, and the way from a call to its tool.

use std::sync::Arc;

use cuitty_webhooks_log::trace::Traced;
use http::request::Parts;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CustomRequest, CustomResult, ErrorCode, ErrorData,
    Implementation, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};

use super::arguments::Arguments;
use super::calls::Call;
use super::refusal::refused;
use super::tools::{TOOLS, described};
use crate::app::App;
use crate::auth::Caller;

/// What an agent should know before it calls anything.
const INSTRUCTIONS: &str = "Cuitty Webhooks delivers a project's events to HTTP endpoints, signed and with retries, and \
                            keeps every attempt. To find out why something did not arrive, list the deliveries of the \
                            endpoint and read one: each attempt shows what was sent and what came back. A delivery that \
                            has failed can be replayed once its cause is gone. Signing secrets are shown once, when they \
                            are made: hand them to the user and do not repeat them.";

/// The server of one request; clones share everything.
#[derive(Clone)]
pub(super) struct Server {
    app: Arc<App>,
    tools: Arc<[Tool]>,
}

impl Server {
    pub(super) fn new(app: Arc<App>) -> Self {
        let tools = described().into();
        Self { app, tools }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let name =
            Implementation::new("cuitty-webhooks", env!("CARGO_PKG_VERSION")).with_title("Cuitty Webhooks");
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(name)
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if request.is_some_and(|request| request.cursor.is_some()) {
            return Err(ErrorData::invalid_params(
                "cursor: there is one page of tools",
                None,
            ));
        }
        Ok(ListToolsResult::with_all_items(self.tools.to_vec()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = TOOLS
            .iter()
            .find(|tool| tool.name == request.name)
            .ok_or_else(|| {
                let message = format!(
                    "there is no tool `{}`; tools/list tells which there are",
                    request.name
                );
                ErrorData::invalid_params(message, None)
            })?;
        let parts = context.extensions.get::<Parts>();
        let caller = parts.and_then(|parts| Some((parts, parts.extensions.get::<Arc<Caller>>()?)));
        let (parts, caller) =
            caller.ok_or_else(|| ErrorData::internal_error("a call came in by no door", None))?;
        let call = Call {
            app: &self.app,
            caller,
            headers: &parts.headers,
            arguments: Arguments::new(request.arguments.unwrap_or_default()),
        };
        let calling = (tool.call)(call);
        let traced = parts.extensions.get::<Traced>().cloned();
        let outcome = match traced {
            Some(traced) => traced.run(calling).await,
            None => calling.await,
        };
        let result = match outcome {
            Ok(output) => output.into_result(),
            Err(error) => refused(&error),
        };
        Ok(result.into())
    }

    /// Where requests end that are not as their method says.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        Err(if request.method == "tools/call" {
            let message = "params: must be an object with the tool's `name` and its `arguments`, an object";
            ErrorData::invalid_params(message, None)
        } else {
            ErrorData::new(ErrorCode::METHOD_NOT_FOUND, request.method, None)
        })
    }
}
