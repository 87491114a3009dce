use cuitty_webhooks_domain::names::ProjectId;

use super::fixtures::{endpoint_id, message_id, now};
use crate::testing::NatsServer;
use crate::{Claim, Intent, Record};

fn intent(number: u64) -> Intent {
    Intent {
        message_id: message_id(number),
        endpoint_ids: vec![endpoint_id(1), endpoint_id(2)],
        fingerprint: [number as u8; 32],
        requested_at: now(),
    }
}

#[tokio::test]
async fn a_key_belongs_to_its_first_request() {
    let server = NatsServer::start().await;
    let keys = server.log().await.idempotency().await.unwrap();
    let project: ProjectId = "acme".parse().unwrap();
    let key = "any text: ä *.> \u{7f} \n";
    assert_eq!(keys.claim(&project, key, &intent(1)).await, Ok(Claim::New));
    let intended = Record {
        intent: intent(1),
        log_sequence: None,
    };
    assert_eq!(
        keys.claim(&project, key, &intent(2)).await,
        Ok(Claim::Existing(intended))
    );
    keys.complete(&project, key, &intent(1), 42).await.unwrap();
    let complete = Record {
        intent: intent(1),
        log_sequence: Some(42),
    };
    assert_eq!(
        keys.claim(&project, key, &intent(1)).await,
        Ok(Claim::Existing(complete))
    );
    let other: ProjectId = "other".parse().unwrap();
    assert_eq!(keys.claim(&other, key, &intent(3)).await, Ok(Claim::New));
    assert_eq!(
        keys.claim(&project, "another key", &intent(3)).await,
        Ok(Claim::New)
    );
}

#[tokio::test]
async fn of_many_claims_at_once_one_is_first() {
    let server = NatsServer::start().await;
    let keys = server.log().await.idempotency().await.unwrap();
    let project: ProjectId = "acme".parse().unwrap();
    let claims = (0..20).map(|number| {
        let (keys, project) = (keys.clone(), project.clone());
        async move { (number, keys.claim(&project, "k", &intent(number)).await.unwrap()) }
    });
    let claims = futures_util::future::join_all(claims).await;
    let winners: Vec<_> = claims
        .iter()
        .filter(|(_, claim)| *claim == Claim::New)
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(winners.len(), 1);
    let expected = Claim::Existing(Record {
        intent: intent(winners[0]),
        log_sequence: None,
    });
    assert_eq!(claims.iter().filter(|(_, claim)| *claim == expected).count(), 19);
}
