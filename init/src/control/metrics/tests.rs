use super::*;
use crate::control::protocol::InitStatus;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use supervisor::status::{Resources, WatchdogStatus};

/// Name, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

/// A family and its samples.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<Sample>,
}

/// Reads a text as strictly as OpenMetrics 1.0 says it.
fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = text
        .strip_suffix("# EOF\n")
        .ok_or("`# EOF` is not the end")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut current, mut units, mut helps) = (String::new(), HashSet::new(), HashSet::new());
    let mut series = HashSet::new();
    for line in body.split_terminator('\n') {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let mut word = || words.next().ok_or_else(|| format!("{line}: short"));
            let (what, name, value) = (word()?, word()?, word()?);
            match what {
                "TYPE" => {
                    let kind = value.to_owned();
                    let family = Family {
                        kind,
                        ..Family::default()
                    };
                    if !["gauge", "counter", "summary"].contains(&value) {
                        return Err(format!("{line}: unknown type"));
                    }
                    if families.insert(name.to_owned(), family).is_some() {
                        return Err(format!("{name} is in two pieces"));
                    }
                    current = name.to_owned();
                }
                _ if name != current => return Err(format!("{line}: not of {current}")),
                "UNIT" if !name.ends_with(&format!("_{value}")) => {
                    return Err(format!("{line}: not in the name"));
                }
                "UNIT" if units.insert(name) => {}
                "HELP" if helps.insert(name) => {}
                _ => return Err(format!("{line}: unknown or twice")),
            }
            continue;
        }
        let (name, labels, value) = sample(line)?;
        let family = families.get_mut(&current).ok_or("a sample before a type")?;
        let suffix = name
            .strip_prefix(current.as_str())
            .ok_or_else(|| format!("{line}: not of {current}"))?;
        let fits = match family.kind.as_str() {
            "counter" => suffix == "_total" && value >= 0.0,
            "summary" => ["_sum", "_count"].contains(&suffix),
            _ => suffix.is_empty(),
        };
        if !fits {
            return Err(format!("{line}: no {}", family.kind));
        }
        let mut sorted = labels.clone();
        sorted.sort();
        if !series.insert((name.clone(), sorted)) {
            return Err(format!("{line}: twice"));
        }
        family.samples.push((name, labels, value));
    }
    Ok(families)
}

fn sample(line: &str) -> Result<Sample, String> {
    let wrong = |what: &str| format!("{line}: {what}");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = line
        .find(|c| !is_name(c))
        .ok_or_else(|| wrong("only a name"))?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or_else(|| wrong("no label"))?;
            if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(wrong("label name"));
            }
            let (mut value, mut chars) = (String::new(), after.chars());
            loop {
                match chars.next().ok_or_else(|| wrong("open string"))? {
                    '"' => break,
                    '\\' => value.push(match chars.next() {
                        Some('n') => '\n',
                        Some(c @ ('\\' | '"')) => c,
                        _ => return Err(wrong("escape")),
                    }),
                    c => value.push(c),
                }
            }
            if labels.iter().any(|(l, _)| l == label) {
                return Err(wrong("label twice"));
            }
            labels.push((label.to_owned(), value));
            rest = chars.as_str();
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').ok_or_else(|| wrong("no comma"))?;
        }
    }
    let value = rest.strip_prefix(' ').ok_or_else(|| wrong("no blank"))?;
    if value.is_empty() || !value.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong("no number"));
    }
    let value = value.parse().map_err(|_| wrong("no number"))?;
    Ok((name.to_owned(), labels, value))
}

fn example() -> SystemStatus {
    SystemStatus {
        now_ms: 61_500,
        healthy: true,
        init: InitStatus {
            wakeups: 7,
            ..InitStatus::default()
        },
        services: vec![ServiceStatus {
            name: "a".into(),
            state: "healthy".into(),
            started_at_ms: Some(1_250),
            restarts: 3,
            probes: vec![ProbeStatus {
                kind: "liveness".into(),
                good: 4,
                bad: 1,
                latency_sum_ms: 50,
                latency_max_ms: 20,
                ..ProbeStatus::default()
            }],
            watchdog: Some(WatchdogStatus {
                margin_ms: Some(29_000),
                ..WatchdogStatus::default()
            }),
            resources: Resources {
                cpu_usec: Some(1_000_001),
                ..Resources::default()
            },
            ..ServiceStatus::default()
        }],
        ..SystemStatus::default()
    }
}

#[test]
fn lines_as_a_scraper_reads_them() {
    let text = render(&example());
    for line in [
        "init_healthy 1",
        "# TYPE init_wakeups counter",
        "init_wakeups_total 7",
        "init_service_state{service=\"a\",state=\"healthy\"} 1",
        "init_service_state{service=\"a\",state=\"failed\"} 0",
        "init_service_restarts_total{service=\"a\"} 3",
        "# UNIT init_service_uptime_seconds seconds",
        "init_service_uptime_seconds{service=\"a\"} 60.250",
        "init_service_cpu_seconds_total{service=\"a\"} 1.000001",
        "init_service_watchdog_margin_seconds{service=\"a\"} 29.000",
        "init_probe_answers_total{service=\"a\",probe=\"liveness\",result=\"bad\"} 1",
        "init_probe_latency_seconds_sum{service=\"a\",probe=\"liveness\"} 0.050",
        "init_probe_latency_seconds_count{service=\"a\",probe=\"liveness\"} 5",
        "init_probe_latency_max_seconds{service=\"a\",probe=\"liveness\"} 0.020",
        "init_log_lost_lines_total{service=\"a\",reason=\"rate\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("memory"), "{text}");
    assert!(!text.contains("least_margin"), "{text}");
}

#[test]
fn the_parser_of_this_test_is_strict() {
    for wrong in [
        "",
        "# EOF",
        "a 1\n# EOF\n",
        "# TYPE a counter\na 1\n# EOF\n",
        "# TYPE a gauge\na 1\na 1\n# EOF\n",
        "# TYPE a gauge\na 1\n# TYPE b gauge\na{x=\"1\"} 1\n# EOF\n",
        "# TYPE a gauge\n# UNIT a seconds\na 1\n# EOF\n",
        "# TYPE a gauge\na{x=\"\\x\"} 1\n# EOF\n",
        "# TYPE a gauge\na\n# EOF\n",
        "# EOF\n# EOF\n",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn whatever_the_status_the_text_is_well_formed(
        names in proptest::collection::hash_set("[a-z\"\\\\\n{},ü ]{1,8}", 0..4),
        numbers in proptest::collection::vec(any::<u64>(), 12),
        known in any::<bool>(),
    ) {
        let mut status = example();
        let pattern = status.services.remove(0);
        status.now_ms = numbers[0];
        status.services = names.iter().map(|name| {
            let mut service = pattern.clone();
            service.name = name.clone();
            service.starts = numbers[1];
            service.started_at_ms = known.then_some(numbers[2]);
            service.log_lost.file = numbers[3];
            service.resources.memory = known.then_some(numbers[4]);
            service.resources.tasks = Some(numbers[5]);
            service.probes[0].good = numbers[6];
            service.probes[0].latency_sum_ms = numbers[7];
            service
        }).collect();
        let families = parse(&render(&status)).map_err(TestCaseError::fail)?;
        let states = families.get("init_service_state").map_or(0, |f| f.samples.len());
        prop_assert_eq!(states, names.len() * State::ALL.len());
        for (_, labels, _) in families.values().flat_map(|f| &f.samples) {
            prop_assert!(labels.iter().all(|(l, v)| l != "service" || names.contains(v)));
        }
    }
}
