//! Metrics over OTLP: at an interval, what `/metrics` shows is sent to the collector too.
//!
//! The text of `/metrics` is what is read, so both always agree, in values, labels and buckets, and whoever counts pays for one
//! registry only.

use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use metrics::{Counter, counter};
use metrics_exporter_prometheus::PrometheusHandle;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::SERVICE;
use super::collector::Collector;

/// Times that metrics were sent, by how it went.
const EXPORTS: &str = "webhooks_otlp_metric_exports_total";

fn outcome(outcome: &'static str) -> Counter {
    counter!(EXPORTS, "outcome" => outcome)
}

/// Describes what is counted here to the installed recorder, and shows it at 0.
pub(super) fn describe() {
    metrics::describe_counter!(
        EXPORTS,
        "Times that metrics were sent over OTLP by outcome (ok, error)"
    );
    for shown in ["ok", "error"] {
        let _ = outcome(shown);
    }
}

/// Sends the process's metrics until `stop` is cancelled, and then once more.
pub(super) async fn run(
    metrics: PrometheusHandle,
    resource: ResourceAttributesWithSchema,
    every: Duration,
    clock: Clock,
    collector: &Collector,
    stop: &CancellationToken,
) {
    let started = nanos(clock);
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let mut is_last = false;
    while !is_last {
        is_last = stop.run_until_cancelled(tick.tick()).await.is_none();
        let period = Period {
            started,
            now: nanos(clock),
        };
        let metrics = period.metrics(&metrics.render());
        let result = collector.send_metrics(request(&resource, metrics)).await;
        outcome(if result.is_ok() { "ok" } else { "error" }).increment(1);
    }
}

fn nanos(clock: Clock) -> u64 {
    clock()
        .timestamp_nanos_opt()
        .and_then(|nanos| u64::try_from(nanos).ok())
        .unwrap_or_default()
}

fn request(resource: &ResourceAttributesWithSchema, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope {
        name: SERVICE.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let resource = Resource {
        attributes: resource.attributes.0.clone(),
        ..Resource::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

/// What the values count, in nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
struct Period {
    started: u64,
    now: u64,
}

impl Period {
    /// What an exposition in Prometheus' text format says. Names stay as they are, with their suffixes.
    fn metrics(self, exposition: &str) -> Vec<Metric> {
        let mut found: Vec<Metric> = Vec::new();
        let mut help = ("", "");
        for line in exposition.lines() {
            if let Some(text) = line.strip_prefix("# HELP ") {
                help = text.split_once(' ').unwrap_or((text, ""));
            } else if let Some((name, kind)) =
                line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' '))
            {
                let description = if help.0 == name { help.1 } else { "" };
                found.extend(empty(name, kind, description));
            } else if let Some(sample) = Sample::parse(line)
                && let Some(metric) = found.last_mut()
            {
                self.add(metric, sample);
            }
        }
        found
    }

    fn add(self, metric: &mut Metric, sample: Sample<'_>) {
        let part = sample.name.strip_prefix(metric.name.as_str());
        match (&mut metric.data, part) {
            (Some(Data::Sum(sum)), Some("")) => sum.data_points.push(self.number(sample)),
            (Some(Data::Gauge(gauge)), Some("")) => gauge.data_points.push(self.number(sample)),
            (Some(Data::Histogram(histogram)), Some(part)) => self.add_part(histogram, part, sample),
            _ => {}
        }
    }

    fn number(self, sample: Sample<'_>) -> NumberDataPoint {
        NumberDataPoint {
            attributes: sample.labels.into_iter().map(attribute).collect(),
            start_time_unix_nano: self.started,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsDouble(sample.value)),
            ..NumberDataPoint::default()
        }
    }

    /// A histogram's series are written one after the other, each as its buckets, its sum and its count.
    fn add_part(self, histogram: &mut Histogram, part: &str, mut sample: Sample<'_>) {
        let bound = sample.labels.iter().position(|(name, _)| *name == "le");
        let bound = bound.map(|index| sample.labels.remove(index).1);
        let attributes: Vec<_> = sample.labels.into_iter().map(attribute).collect();
        let is_same = |point: &HistogramDataPoint| point.attributes == attributes;
        if !histogram.data_points.last().is_some_and(is_same) {
            histogram.data_points.push(HistogramDataPoint {
                attributes,
                start_time_unix_nano: self.started,
                time_unix_nano: self.now,
                ..HistogramDataPoint::default()
            });
        }
        let Some(point) = histogram.data_points.last_mut() else {
            return;
        };
        match (part, bound) {
            ("_bucket", Some(bound)) => {
                // Each one counts what the ones below it count, too.
                let below: u64 = point.bucket_counts.iter().sum();
                point
                    .bucket_counts
                    .push((sample.value as u64).saturating_sub(below));
                // The last one is bounded by infinity, which OTLP leaves out.
                point
                    .explicit_bounds
                    .extend(bound.parse::<f64>().ok().filter(|bound| bound.is_finite()));
            }
            ("_sum", None) => point.sum = Some(sample.value),
            ("_count", None) => point.count = sample.value as u64,
            _ => {}
        }
    }
}

/// A metric without values; `None` of a kind that this process has none of.
fn empty(name: &str, kind: &str, description: &str) -> Option<Metric> {
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match kind {
        "counter" => Data::Sum(Sum {
            data_points: Vec::new(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        "gauge" => Data::Gauge(Gauge::default()),
        "histogram" => Data::Histogram(Histogram {
            data_points: Vec::new(),
            aggregation_temporality: cumulative,
        }),
        _ => return None,
    };
    let stem = name.strip_suffix("_total").unwrap_or(name);
    let unit = if stem.ends_with("_seconds") {
        "s"
    } else if stem.ends_with("_bytes") {
        "By"
    } else {
        ""
    };
    Some(Metric {
        name: name.to_owned(),
        description: description.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn attribute((name, value): (&str, String)) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value)),
        }),
        ..KeyValue::default()
    }
}

/// `name{label="value",…} value`
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = Vec::new();
        while rest != "}" {
            let (label, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquoted(quoted)?;
            labels.push((label, value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Some(Self { name, labels, value })
    }
}

/// The text up to the closing quote, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped => escaped,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPOSITION: &str = r#"# HELP x_total Things, by kind
# TYPE x_total counter
x_total{kind="a,b=\"c\\\n}"} 7
x_total 1

# TYPE y gauge
y -0.5

# HELP z_seconds How long
# TYPE z_seconds histogram
z_seconds_bucket{le="0.5"} 2
z_seconds_bucket{le="1"} 2
z_seconds_bucket{le="+Inf"} 5
z_seconds_sum 12.5
z_seconds_count 5
z_seconds_bucket{code="ok",le="0.5"} 0
z_seconds_bucket{code="ok",le="+Inf"} 1
z_seconds_sum{code="ok"} 3
z_seconds_count{code="ok"} 1
"#;

    #[test]
    fn what_the_exposition_says_is_sent() {
        let metrics = Period { started: 3, now: 9 }.metrics(EXPOSITION);
        let [x, y, z] = &metrics[..] else {
            panic!("{metrics:?}")
        };
        assert_eq!(
            (&*x.name, &*x.description, &*x.unit),
            ("x_total", "Things, by kind", "")
        );
        assert_eq!((&*y.name, &*y.description), ("y", ""));
        assert_eq!((&*z.name, &*z.unit), ("z_seconds", "s"));
        let (Some(Data::Sum(x)), Some(Data::Gauge(y)), Some(Data::Histogram(z))) =
            (&x.data, &y.data, &z.data)
        else {
            panic!("{metrics:?}")
        };
        assert!(x.is_monotonic);
        let value = |point: &NumberDataPoint| match point.value {
            Some(number_data_point::Value::AsDouble(value)) => value,
            _ => panic!("{point:?}"),
        };
        assert_eq!(x.data_points.iter().map(value).collect::<Vec<_>>(), [7.0, 1.0]);
        assert_eq!(
            x.data_points[0].attributes,
            [attribute(("kind", "a,b=\"c\\\n}".into()))]
        );
        assert_eq!(y.data_points.iter().map(value).collect::<Vec<_>>(), [-0.5]);
        assert_eq!(
            (
                x.data_points[0].start_time_unix_nano,
                x.data_points[0].time_unix_nano
            ),
            (3, 9)
        );
        let [all, ok] = &z.data_points[..] else {
            panic!("{z:?}")
        };
        assert_eq!(all.explicit_bounds, [0.5, 1.0]);
        assert_eq!(all.bucket_counts, [2, 0, 3]);
        assert_eq!((all.sum, all.count), (Some(12.5), 5));
        assert_eq!(ok.attributes, [attribute(("code", "ok".into()))]);
        assert_eq!((&ok.bucket_counts[..], ok.count), (&[0, 1][..], 1));
    }

    #[test]
    fn lines_that_are_no_samples_are_left_out() {
        for line in ["", "x", "x{", "x{a=\"b} 1", "x one"] {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
    }
}
