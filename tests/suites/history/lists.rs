//! Lists: filters, pages, and the indexes that they are read from.

use std::time::Duration;

use cuitty_webhooks_domain::delivery::{Conclusion, Delivery, DeliveryEvent, DeliveryStatus, FailureReason};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_history::{DeliveryFilter, Store, StoreConfig};
use rand::RngExt;
use rand::seq::IndexedRandom;
use sqlx::Connection;

use super::given::{Given, Whole, batch};

super::contract! {
    pages_hold_every_delivery_once_and_in_order
    filters_select_exactly_what_they_say
    lists_are_read_off_an_index_without_sorting
}

const PROJECTS: [&str; 3] = ["acme", "globex", "initech"];
const EVENT_TYPES: [&str; 3] = ["budget.exceeded", "api_key.revoked", "experiment.completed"];

/// Fills the store with deliveries of a few projects, endpoints, types and states, many of them created at the same time;
/// returns the endpoints.
async fn fill(store: &Store, given: &mut Given, count: usize) -> Vec<EndpointId> {
    let endpoints: Vec<_> = (0..6).map(|_| given.endpoint()).collect();
    let mut events = Vec::new();
    for _ in 0..count {
        let which = given.rng.random_range(0..endpoints.len());
        let event_type = *EVENT_TYPES.choose(&mut given.rng).unwrap();
        let delivery = given.delivery(PROJECTS[which / 2], endpoints[which], event_type);
        // About three deliveries per moment.
        let moment = given.now;
        let mut requested = given.requested(&delivery);
        if given.rng.random_bool(0.7) {
            given.now = moment;
        }
        if let (_, DeliveryEvent::Requested(event)) = &mut requested {
            event.requested_at = moment;
        }
        events.push(requested);
        let conclusion = match given.rng.random_range(0..20) {
            0 => continue,
            1 => Conclusion::Failed {
                reason: FailureReason::Exhausted,
            },
            _ => Conclusion::Succeeded,
        };
        let (attempt, moment) = (given.answered(1, 204), given.now);
        events.push(given.concluded(&delivery, Some(attempt), conclusion));
        given.now = moment - Duration::from_micros(1500);
    }
    let mut checkpoint = 0;
    for chunk in events.chunks(3000) {
        let batch = batch(checkpoint, chunk);
        store.apply(&batch).await.unwrap();
        checkpoint = batch.checkpoint;
    }
    endpoints
}

/// Every page of a list.
async fn all_pages(store: &Store, filter: &DeliveryFilter, limit: u32) -> Vec<Delivery> {
    let (mut deliveries, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list_deliveries(filter, limit, cursor).await.unwrap();
        assert!(page.deliveries.len() <= limit as usize);
        deliveries.extend(page.deliveries);
        let Some(next) = page.next else { return deliveries };
        // As a client would give it back.
        cursor = Some(next.to_string().parse().unwrap());
    }
}

fn selects(filter: &DeliveryFilter, delivery: &Delivery) -> bool {
    let names = &delivery.delivery;
    filter
        .project_id
        .as_ref()
        .is_none_or(|id| *id == names.project_id)
        && filter.endpoint_id.is_none_or(|id| id == names.endpoint_id)
        && filter.status.is_none_or(|status| status == delivery.status)
        && filter
            .event_type
            .as_ref()
            .is_none_or(|name| *name == names.event_type)
        && filter.since.is_none_or(|since| delivery.created_at >= since)
        && filter.until.is_none_or(|until| delivery.created_at < until)
}

/// What a list must hold, found by looking at every row.
async fn newest_first(store: &Store) -> Vec<Delivery> {
    let mut deliveries: Vec<_> = Whole::of(store)
        .await
        .deliveries
        .into_iter()
        .map(|detail| detail.delivery)
        .collect();
    deliveries
        .sort_by_key(|delivery| std::cmp::Reverse((delivery.created_at, delivery.delivery.delivery_id)));
    deliveries
}

async fn pages_hold_every_delivery_once_and_in_order(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    fill(&store, &mut Given::new(20), 3000).await;
    let expected = newest_first(&store).await;
    let ties = expected
        .windows(2)
        .filter(|pair| pair[0].created_at == pair[1].created_at)
        .count();
    assert!(ties > 500, "only {ties} deliveries share their time with another");
    let everything = DeliveryFilter::default();
    for limit in [7, 200, 3000] {
        assert!(
            all_pages(&store, &everything, limit).await == expected,
            "pages of {limit}"
        );
    }
    let only_page = store.list_deliveries(&everything, 3000, None).await.unwrap();
    assert_eq!(only_page.next, None);
    let nobody = DeliveryFilter {
        project_id: Some("nobody".parse().unwrap()),
        ..everything
    };
    let empty = store.list_deliveries(&nobody, 1, None).await.unwrap();
    assert_eq!((empty.deliveries, empty.next), (vec![], None));
}

/// Every combination of filters, with values that select something.
fn combinations(endpoints: &[EndpointId], deliveries: &[Delivery]) -> Vec<DeliveryFilter> {
    let at = |part: usize| deliveries[deliveries.len() * part / 4].created_at;
    let mut filters = Vec::new();
    for bits in 0..32_u32 {
        let given = |bit: u32| bits & (1 << bit) != 0;
        let statuses: &[Option<DeliveryStatus>] = if given(2) {
            &DeliveryStatus::ALL.map(Some)
        } else {
            &[None]
        };
        for &status in statuses {
            filters.push(DeliveryFilter {
                project_id: given(0).then(|| PROJECTS[1].parse().unwrap()),
                endpoint_id: given(1).then(|| endpoints[2]),
                status,
                event_type: given(3).then(|| EVENT_TYPES[0].parse().unwrap()),
                since: given(4).then(|| at(3)),
                until: given(4).then(|| at(1)),
            });
        }
    }
    filters
}

async fn filters_select_exactly_what_they_say(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let endpoints = fill(&store, &mut Given::new(21), 1500).await;
    let deliveries = newest_first(&store).await;
    for filter in combinations(&endpoints, &deliveries) {
        let expected: Vec<_> = deliveries
            .iter()
            .filter(|delivery| selects(&filter, delivery))
            .cloned()
            .collect();
        assert!(!expected.is_empty(), "{filter:?}");
        assert!(all_pages(&store, &filter, 50).await == expected, "{filter:?}");
    }
    let moment = deliveries[700].created_at;
    let since = DeliveryFilter {
        since: Some(moment),
        ..DeliveryFilter::default()
    };
    let until = DeliveryFilter {
        until: Some(moment),
        ..DeliveryFilter::default()
    };
    let (after, before) = (
        all_pages(&store, &since, 200).await,
        all_pages(&store, &until, 200).await,
    );
    assert_eq!(after.len() + before.len(), deliveries.len());
    assert!(after.iter().any(|delivery| delivery.created_at == moment));
}

async fn lists_are_read_off_an_index_without_sorting(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let endpoints = fill(&store, &mut Given::new(22), 20_000).await;
    let newest = store
        .list_deliveries(&DeliveryFilter::default(), 200, None)
        .await
        .unwrap();
    let is_sqlite = config.url.starts_with("sqlite:");
    let unsorted = if is_sqlite {
        store.clone()
    } else {
        let mut connection = sqlx::PgConnection::connect(&config.url).await.unwrap();
        // As autovacuum does before long.
        sqlx::query("ANALYZE deliveries")
            .execute(&mut connection)
            .await
            .unwrap();
        // Where few rows match, PostgreSQL prefers to sort them; this shows that it need not.
        let url = format!("{}?options=-c%20enable_sort%3Doff", config.url);
        Store::open(&StoreConfig {
            url,
            ..config.clone()
        })
        .await
        .unwrap()
    };
    let read = if is_sqlite {
        "USING INDEX deliveries_"
    } else {
        "Index Scan Backward using deliveries_"
    };
    for filter in combinations(&endpoints, &newest.deliveries) {
        for cursor in [None, newest.next] {
            let plan = unsorted
                .explain_list(&filter, 50, cursor)
                .await
                .unwrap()
                .join("\n");
            assert!(plan.contains(read), "{filter:?}:\n{plan}");
            assert!(
                !plan.contains("Sort") && !plan.contains("TEMP B-TREE"),
                "{filter:?}:\n{plan}"
            );
            let plan = store.explain_list(&filter, 50, cursor).await.unwrap().join("\n");
            assert!(!plan.contains("Seq Scan"), "{filter:?}:\n{plan}");
            // SQLite scans an index from its end where nothing but time is given.
            let is_bounded = filter.project_id.is_some() || filter.endpoint_id.is_some();
            assert!(!is_bounded || !plan.contains("SCAN d"), "{filter:?}:\n{plan}");
        }
    }
}
