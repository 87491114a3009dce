use super::fixtures::{append_all, cancelled, requested, retry, success};
use crate::testing::NatsServer;
use crate::{Progress, ProgressRead};

fn waits(attempts: u32) -> Progress {
    Progress {
        attempts,
        has_ended: false,
    }
}

fn ended(attempts: u32) -> Progress {
    Progress {
        attempts,
        has_ended: true,
    }
}

#[tokio::test]
async fn how_far_deliveries_of_all_endpoints_have_come_is_told() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    assert_eq!(log.progress(0, None).await.unwrap(), ProgressRead::default());
    let requests = [1, 2, 3, 4, 5].map(|endpoint| requested(endpoint, endpoint));
    let [waiting, delivered, dropped, late, other] = &requests;
    append_all(
        &log,
        &[
            retry(waiting, 1),
            retry(delivered, 1),
            cancelled(dropped),
            success(delivered, 2),
            retry(waiting, 2),
            success(late, 3),
            retry(late, 4),
        ],
    )
    .await;
    // No outcome: the log ends behind the last one.
    log.append_requested(std::slice::from_ref(other)).await.unwrap();
    let told = |read: &ProgressRead| {
        requests
            .each_ref()
            .map(|request| read.of.get(&request.delivery.delivery_id).copied())
    };

    let all = log.progress(0, None).await.unwrap();
    let expected = [
        Some(waits(2)),
        Some(ended(2)),
        Some(ended(0)),
        Some(ended(4)),
        None,
    ];
    assert_eq!((told(&all), all.to), (expected, 8));
    let part = log.progress(1, Some(4)).await.unwrap();
    assert_eq!(
        (told(&part), part.to),
        ([None, Some(ended(2)), Some(ended(0)), None, None], 4)
    );
    let rest = log.progress(4, None).await.unwrap();
    assert_eq!(told(&rest), [Some(waits(2)), None, None, Some(ended(4)), None]);
    let nothing = log.progress(7, None).await.unwrap();
    assert_eq!((nothing.of.len(), nothing.to), (0, 8));
    assert_eq!(log.progress(8, None).await.unwrap().to, 8);
}

#[tokio::test]
async fn progress_is_read_part_by_part() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests: Vec<_> = (0..2100).map(|message| requested(message, message % 7)).collect();
    let outcomes: Vec<_> = requests.iter().map(|request| retry(request, 1)).collect();
    append_all(&log, &outcomes).await;
    append_all(&log, &[success(&requests[0], 2)]).await;
    let read = log.progress(0, None).await.unwrap();
    assert_eq!((read.of.len(), read.to), (2100, 2101));
    assert_eq!(read.of[&requests[0].delivery.delivery_id], ended(2));
    assert_eq!(read.of[&requests[2099].delivery.delivery_id], waits(1));
}
