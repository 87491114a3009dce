//! Metrics over OTLP, beside what Prometheus scrapes.

use std::collections::BTreeMap;

use harness::collector::{Collector, attributes};
use harness::eventually::eventually;
use harness::receiver::Receiver;
use harness::rest::RestClient;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use serde_json::json;

use super::exporting;

/// The samples of a metric of a process, by their labels.
async fn exposed(admin_url: &str, series: &str) -> BTreeMap<String, f64> {
    let text = RestClient::new(admin_url, None).get("/metrics").await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let samples = text.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
        (name == series).then(|| (labels.trim_end_matches('}').to_owned(), value.parse().unwrap()))
    });
    samples.collect()
}

#[tokio::test]
async fn metrics_arrive_over_otlp_as_prometheus_scrapes_them() {
    let collector = Collector::start();
    let app = exporting(&collector).start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    for _ in 0..3 {
        app.deliver("order.paid", &json!({})).await;
    }
    let admin = app.roles[0].admin_url();
    let operation = "operation=\"deliver_message\"";
    let is_accepted = |labels: &str| labels.contains(operation) && labels.contains("code=\"ok\"");

    let calls = "webhooks_api_calls_total";
    let exposed_calls = exposed(&admin, calls).await;
    let ok = exposed_calls.iter().find(|(labels, _)| is_accepted(labels));
    assert_eq!(ok.map(|(_, value)| *value), Some(3.0), "{exposed_calls:?}");
    eventually("the counter agrees", || async {
        let Some(Data::Sum(sum)) = collector.metric("api", calls).and_then(|metric| metric.data) else {
            return Err("no sum".to_owned());
        };
        assert!(sum.is_monotonic);
        let points = sum.data_points.into_iter();
        let value = points
            .filter(|point| {
                let labels = attributes(point.attributes.clone());
                labels["operation"] == "deliver_message" && labels["code"] == "ok"
            })
            .map(|point| point.value);
        let values: Vec<_> = value.collect();
        match values[..] {
            [Some(Number::AsDouble(3.0))] => Ok(()),
            _ => Err(format!("{values:?}")),
        }
    })
    .await;

    let seconds = "webhooks_api_call_seconds";
    let buckets = exposed(&admin, &format!("{seconds}_bucket")).await;
    let buckets = buckets.iter().filter(|(labels, _)| labels.contains(operation));
    let mut bounds: Vec<f64> = buckets
        .filter_map(|(labels, _)| {
            let bound = labels.split("le=\"").nth(1)?.trim_end_matches('"');
            bound.parse().ok().filter(|bound: &f64| bound.is_finite())
        })
        .collect();
    bounds.sort_by(f64::total_cmp);
    let sum = exposed(&admin, &format!("{seconds}_sum")).await[operation];
    let metric = collector.metric("api", seconds).expect("sent with the counter");
    assert_eq!(metric.unit, "s");
    let Some(Data::Histogram(histogram)) = metric.data else {
        panic!("no histogram")
    };
    let mut points = histogram.data_points.into_iter();
    let point = points
        .find(|point| attributes(point.attributes.clone())["operation"] == "deliver_message")
        .expect("the operation's");
    assert_eq!(point.explicit_bounds, bounds);
    assert_eq!((point.count, point.sum), (3, Some(sum)));
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 3);
}
