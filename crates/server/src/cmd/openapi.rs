//! `openapi`: the document that the API serves, without a server.

pub(super) fn run() -> anyhow::Result<()> {
    super::print(&cuitty_webhooks_api::openapi())
}
