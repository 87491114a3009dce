//! Whether the attempts of a delivery were signed as their records say.

use cuitty_webhooks_domain::destination::{Message, bodies};
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::SecretId;
use cuitty_webhooks_domain::signing::{SignatureCheck, Unverifiable, VerificationKey, check_signatures};
use cuitty_webhooks_history::DeliveryDetail;

use super::App;

impl App {
    /// Checks every attempt's signatures, under the secrets that made them, live or retired; for each attempt in turn.
    pub(crate) fn check_signatures(&self, detail: &DeliveryDetail) -> Vec<Vec<SignatureCheck>> {
        let delivery = &detail.delivery.delivery;
        let entry = self.directory.get(delivery.endpoint_id);
        let endpoint = entry.as_ref().map(|entry| &entry.endpoint);
        // Which of them was sent depends on the endpoint's settings of that time.
        let bodies = bodies(&Message {
            delivery,
            payload: &detail.payload,
            content_type: &detail.content_type,
            requested_at: detail.delivery.created_at,
        });
        let signature_header = endpoint.and_then(|endpoint| endpoint.settings.signature_header.as_deref());
        let key = |id| {
            endpoint
                .ok_or(Unverifiable::SecretGone)
                .and_then(|endpoint| self.verification_key(endpoint, id))
        };
        let attempts = detail.attempts.iter();
        attempts
            .map(|row| check_signatures(&row.attempt.request, &bodies, signature_header, key))
            .collect()
    }

    fn verification_key(&self, endpoint: &Endpoint, id: SecretId) -> Result<VerificationKey, Unverifiable> {
        let secret = endpoint.secrets.iter().find(|secret| secret.id == id);
        let sealed = &secret.ok_or(Unverifiable::SecretGone)?.sealed;
        if let Some(public_key) = sealed.public_key {
            return Ok(public_key.into());
        }
        let opened = self.key_ring.open(sealed, endpoint.id, id);
        opened.map(Into::into).map_err(|error| {
            tracing::warn!(endpoint.id = %endpoint.id, secret.id = %id, %error, "secret does not open");
            Unverifiable::SecretSealed
        })
    }
}
