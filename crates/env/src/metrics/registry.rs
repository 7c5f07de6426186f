use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Counter, Gauge, Histogram};

/// The media type of [`Registry::render_openmetrics`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one node. A cheap clone of one shared value, not a global.
///
/// A metric is named once and for all with its kind, and may have one series for each set of
/// label values, up to [`Registry::series_max`]: label values must come from a small closed set
/// (kinds, roles, reasons), never from players, ids or addresses. A series beyond the limit is
/// refused: the handle works but is not rendered, and `mainstay_metrics_refused_total` counts it.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Mutex<Metrics>>,
}

#[derive(Default)]
struct Metrics {
    families: BTreeMap<String, Family>,
    series_max: Option<usize>,
    refused: u64,
}

struct Family {
    help: String,
    kind: &'static str,
    label_names: Vec<String>,
    series: BTreeMap<Vec<String>, Series>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// One number of a registry, for a console that shows them itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Names and values of its labels.
    pub labels: Vec<(String, String)>,
    /// The value of a counter or gauge, the count of a histogram.
    pub value: f64,
}

const SERIES_MAX: usize = 256;
const LABEL_BYTES_MAX: usize = 128;
const REFUSED: &str = "mainstay_metrics_refused";

impl Registry {
    /// An empty registry that allows 256 series a metric.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty registry that allows `series_max` series a metric.
    pub fn with_series_max(series_max: usize) -> Self {
        let registry = Self::new();
        registry.lock().series_max = Some(series_max);
        registry
    }

    /// How many series a metric may have.
    pub fn series_max(&self) -> usize {
        self.lock().series_max.unwrap_or(SERIES_MAX)
    }

    /// The counter with `name` and `labels`, made on first use.
    ///
    /// `name` is `subsystem_things` in lower case, without the `_total` that rendering adds, and
    /// ends in its unit if it has one (`gate_received_bytes`). `labels` are pairs of name and
    /// value.
    ///
    /// # Panics
    /// If the name is malformed, or was given before with another kind or other label names.
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let name = name.strip_suffix("_total").unwrap_or(name);
        match self.series(name, help, labels, || Series::Counter(Counter::detached())) {
            Series::Counter(counter) => counter,
            _ => panic!("metric {name} is no counter"),
        }
    }

    /// The gauge with `name` and `labels`, made on first use; see [`Registry::counter`].
    ///
    /// # Panics
    /// As [`Registry::counter`].
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        match self.series(name, help, labels, || Series::Gauge(Gauge::detached())) {
            Series::Gauge(gauge) => gauge,
            _ => panic!("metric {name} is no gauge"),
        }
    }

    /// The histogram with `name` and `labels`, made on first use; see [`Registry::counter`].
    ///
    /// `bounds` are the buckets' inclusive upper ends, for example
    /// [`SECONDS`](super::SECONDS); only the first call's count.
    ///
    /// # Panics
    /// As [`Registry::counter`], and if `bounds` is empty, not rising or not finite.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
    ) -> Histogram {
        match self.series(name, help, labels, || Series::Histogram(Histogram::detached(bounds))) {
            Series::Histogram(histogram) => histogram,
            _ => panic!("metric {name} is no histogram"),
        }
    }

    /// Forgets one series, so that what has gone (a room kind, a peer) is no longer rendered.
    /// Handles stay usable. Returns whether it was there.
    pub fn remove(&self, name: &str, label_values: &[&str]) -> bool {
        let values: Vec<String> = label_values.iter().map(|value| value.to_string()).collect();
        let mut metrics = self.lock();
        let family = metrics.families.get_mut(name.strip_suffix("_total").unwrap_or(name));
        family.is_some_and(|family| family.series.remove(&values).is_some())
    }

    /// How many series were refused because their metric had too many.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// All numbers, sorted by name and labels.
    pub fn samples(&self) -> Vec<Sample> {
        let metrics = self.lock();
        let mut samples = Vec::new();
        for (name, family) in &metrics.families {
            for (values, series) in &family.series {
                let labels = family.label_names.iter().cloned().zip(values.iter().cloned());
                let value = match series {
                    Series::Counter(counter) => counter.value() as f64,
                    Series::Gauge(gauge) => gauge.value(),
                    Series::Histogram(histogram) => histogram.count() as f64,
                };
                samples.push(Sample { name: name.clone(), labels: labels.collect(), value });
            }
        }
        samples
    }

    /// All metrics as [OpenMetrics 1.0](https://prometheus.io/docs/specs/om/open_metrics_spec/)
    /// text, sorted by name and labels; serve it as [`CONTENT_TYPE`].
    pub fn render_openmetrics(&self) -> String {
        let metrics = self.lock();
        let mut text = String::new();
        for (name, family) in &metrics.families {
            render_head(&mut text, name, family.kind, &family.help);
            for (values, series) in &family.series {
                let labels = render_labels(&family.label_names, values);
                render_series(&mut text, name, &labels, series);
            }
        }
        render_head(&mut text, REFUSED, "counter", "Series refused for having too many labels");
        let _ = writeln!(text, "{REFUSED}_total {}", metrics.refused);
        text.push_str("# EOF\n");
        text
    }

    fn series(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        make: impl FnOnce() -> Series,
    ) -> Series {
        assert!(is_name(name) && name != REFUSED, "{name:?} is no name for a metric");
        for (label, _) in labels {
            assert!(is_name(label) && *label != "le", "{label:?} is no name for a label");
        }
        let values: Vec<String> = labels.iter().map(|(_, value)| clip(value)).collect();
        let mut metrics = self.lock();
        let series_max = metrics.series_max.unwrap_or(SERIES_MAX);
        let Some(family) = metrics.families.get_mut(name) else {
            let series = make();
            let family = Family {
                help: help.to_string(),
                kind: series.kind(),
                label_names: labels.iter().map(|(label, _)| label.to_string()).collect(),
                series: BTreeMap::from([(values, series.clone())]),
            };
            metrics.families.insert(name.to_string(), family);
            return series;
        };
        assert!(
            family.label_names.iter().map(String::as_str).eq(labels.iter().map(|(l, _)| *l)),
            "metric {name} has the labels {:?}",
            family.label_names
        );
        if let Some(series) = family.series.get(&values) {
            return series.clone();
        }
        let series = make();
        assert!(series.kind() == family.kind, "metric {name} is a {}", family.kind);
        if family.series.len() < series_max {
            family.series.insert(values, series.clone());
        } else {
            metrics.refused += 1;
        }
        series
    }

    fn lock(&self) -> MutexGuard<'_, Metrics> {
        // Each change is one insertion, so a panic elsewhere leaves nothing half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("metrics", &self.lock().families.len()).finish()
    }
}

impl Series {
    fn kind(&self) -> &'static str {
        match self {
            Series::Counter(_) => "counter",
            Series::Gauge(_) => "gauge",
            Series::Histogram(_) => "histogram",
        }
    }
}

fn render_head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if !help.is_empty() {
        let _ = writeln!(text, "# HELP {name} {}", escape(help));
    }
}

fn render_series(text: &mut String, name: &str, labels: &str, series: &Series) {
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = match series {
        Series::Counter(counter) => writeln!(text, "{name}_total{braces} {}", counter.value()),
        Series::Gauge(gauge) => writeln!(text, "{name}{braces} {}", number(gauge.value())),
        Series::Histogram(histogram) => {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut below = 0;
            let bounds = histogram.bounds().iter().copied().chain([f64::INFINITY]);
            for (bound, count) in bounds.zip(histogram.counts()) {
                below += count;
                let le = number(bound);
                let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {below}");
            }
            let _ = writeln!(text, "{name}_sum{braces} {}", number(histogram.sum()));
            writeln!(text, "{name}_count{braces} {below}")
        }
    };
}

fn render_labels(names: &[String], values: &[String]) -> String {
    let pairs = names.iter().zip(values);
    let pairs: Vec<String> = pairs.map(|(n, v)| format!("{n}=\"{}\"", escape(v))).collect();
    pairs.join(",")
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_string()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_string()
    } else {
        format!("{value}")
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn clip(value: &str) -> String {
    let mut end = value.len().min(LABEL_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_string()
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LABEL_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn renders_openmetrics_text() {
        let registry = Registry::new();
        let frames = registry.counter("gate_frames", "Frames taken in", &[("kind", "tell")]);
        frames.add(3);
        registry.counter("gate_frames_total", "", &[("kind", "a \"b\"\n")]).inc();
        registry.gauge("gate_sessions", "Sessions bound here", &[]).set(12.0);
        let waits = registry.histogram("call_seconds", "Calls", &[("to", "x")], &[0.1, 1.0]);
        for value in [0.05, 0.1, 0.5, 7.0, f64::NAN] {
            waits.observe(value);
        }
        expect![[r##"
            # TYPE call_seconds histogram
            # HELP call_seconds Calls
            call_seconds_bucket{to="x",le="0.1"} 2
            call_seconds_bucket{to="x",le="1"} 3
            call_seconds_bucket{to="x",le="+Inf"} 4
            call_seconds_sum{to="x"} 7.65
            call_seconds_count{to="x"} 4
            # TYPE gate_frames counter
            # HELP gate_frames Frames taken in
            gate_frames_total{kind="a \"b\"\n"} 1
            gate_frames_total{kind="tell"} 3
            # TYPE gate_sessions gauge
            # HELP gate_sessions Sessions bound here
            gate_sessions 12
            # TYPE mainstay_metrics_refused counter
            # HELP mainstay_metrics_refused Series refused for having too many labels
            mainstay_metrics_refused_total 0
            # EOF
        "##]]
        .assert_eq(&registry.render_openmetrics());
    }

    #[test]
    fn handles_of_one_name_share_their_value() {
        let registry = Registry::new();
        registry.counter("a", "", &[]).inc();
        registry.clone().counter("a", "", &[]).add(2);
        assert_eq!(registry.counter("a", "", &[]).value(), 3);
        let gauge = registry.gauge("b", "", &[]);
        gauge.inc();
        gauge.add(2.5);
        gauge.dec();
        assert_eq!(registry.samples()[1].value, 2.5);
        assert!(registry.remove("a", &[]) && !registry.remove("a", &[]));
    }

    #[test]
    fn unbounded_labels_are_refused() {
        let registry = Registry::with_series_max(2);
        for player in ["1", "2", "3", "4", "1"] {
            registry.counter("kills", "", &[("player", player)]).inc();
        }
        assert_eq!(registry.refused(), 2);
        let text = registry.render_openmetrics();
        assert!(text.contains("kills_total{player=\"1\"} 2") && !text.contains("\"3\""));
        assert!(text.contains("mainstay_metrics_refused_total 2"));
        let long = "é".repeat(1_000);
        registry.gauge("long", "", &[("name", &long)]).set(1.0);
        assert!(registry.render_openmetrics().len() < 1_000);
    }

    #[test]
    #[should_panic(expected = "metric a is a counter")]
    fn a_name_has_one_kind() {
        let registry = Registry::new();
        registry.counter("a", "", &[("x", "1")]);
        registry.gauge("a", "", &[("x", "2")]);
    }

    #[test]
    fn quantiles_are_interpolated() {
        let histogram = Histogram::detached(&[10.0, 20.0, 40.0]);
        assert_eq!(histogram.quantile(0.5), None);
        (0..100).for_each(|n| histogram.observe(f64::from(n) / 5.0));
        assert_eq!(histogram.count(), 100);
        let median = histogram.quantile(0.5).expect("observed some");
        assert!((9.0..11.0).contains(&median), "{median}");
        histogram.observe(1_000.0);
        assert_eq!(histogram.quantile(1.0), Some(40.0));
    }
}
