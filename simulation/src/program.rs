//! What a seed stands for: services, and what is going to happen to them.

use super::random::{Random, mix};
use super::stimulus::{self, Kind, Stimulus};
use std::fmt::Write;
use std::time::Duration;
use supervisor::config::{
    BackoffConfig, DurationText, Escalation, IntensityConfig, ProbeConfig, RestartPolicy,
    ServiceConfig, ServiceType, StopConfig, StopMode,
};
use supervisor::core::ProbeKind;
use supervisor::spec::{Probe, Spec, check_order};

/// A run before it runs.
#[derive(Clone)]
pub struct Program {
    pub seed: u64,
    pub specs: Vec<Spec>,
    /// Who each service is, whatever its place: what it does depends on that alone.
    pub keys: Vec<u64>,
    pub history: Vec<Stimulus>,
    /// When everything is stopped.
    pub length: Duration,
}

/// How often things happen in a program.
struct Pace {
    intervals: (u64, u64),
    timeouts: (u64, u64),
    watchdogs: (u64, u64),
    longest: u64,
}

/// Nearly all time is simulated at the pace of a fleet, cheaply; a short part of it at the pace of
/// a busy machine.
const SLOW: Pace = Pace {
    intervals: (40_000, 600_000),
    timeouts: (200, 20_000),
    watchdogs: (120_000, 600_000),
    longest: 1_800_000,
};
const QUICK: Pace = Pace {
    intervals: (1_000, 30_000),
    timeouts: (200, 8_000),
    watchdogs: (2_000, 60_000),
    longest: 240_000,
};

/// When a milestone comes that is not late.
pub const MILESTONE: Duration = Duration::from_millis(20);

/// So many times shorter is a quick run.
const QUICKER: u32 = 20;

impl Program {
    pub fn new(seed: u64, hours: u64, services: u64) -> Self {
        let mut random = Random::new(seed);
        let count = usize::try_from(1 + random.below(services.max(1))).unwrap_or(1);
        let whole = Duration::from_secs(hours * 3600);
        let quick = random.percent(30);
        let (pace, length) = if quick {
            (QUICK, whole / QUICKER)
        } else {
            (SLOW, whole)
        };
        // Edges lead from higher ranks to lower ones, and ranks say nothing about places.
        let mut ranks: Vec<u64> = (0..count).map(|_| random.next()).collect();
        ranks.dedup();
        let specs: Vec<Spec> = (0..ranks.len())
            .map(|place| spec(&mut random, &pace, place, &ranks))
            .collect();
        if let Err(error) = check_order(&specs) {
            panic!("seed {seed}: the generator made {error}");
        }
        let hours = length.as_secs().div_ceil(3600) * specs.len() as u64;
        let stimuli = 8 + if quick { 8 * hours + 12 } else { 2 * hours };
        let history = stimulus::history(&mut random, specs.len(), length, stimuli, pace.longest);
        Self {
            seed,
            keys: (0..specs.len() as u64).collect(),
            specs,
            history,
            length,
        }
    }

    /// The same with these stimuli only.
    pub fn with(&self, history: &[Stimulus]) -> Self {
        Self {
            history: history.to_vec(),
            ..self.clone()
        }
    }

    /// The same without one service and all that concerns it.
    pub fn without(&self, place: usize) -> Self {
        let mut program = self.clone();
        let gone = program.specs.remove(place).name;
        program.keys.remove(place);
        for spec in &mut program.specs {
            spec.after.retain(|name| *name != gone);
            spec.requires.retain(|name| *name != gone);
            spec.wants.retain(|name| *name != gone);
        }
        program.history.retain(|s| s.service != place);
        for stimulus in &mut program.history {
            if stimulus.service > place {
                stimulus.service -= 1;
            }
        }
        program
    }

    /// What an instance of a service does by itself.
    pub fn hash(&self, place: usize, instance: u64, what: u64) -> u64 {
        mix(&[self.seed, self.keys[place], instance, what])
    }

    /// When the milestone comes.
    pub fn milestone(&self, what: u64) -> Duration {
        let late = |s: &&Stimulus| s.kind == Kind::MilestoneLate && s.salt % 2 == what;
        let late = self.history.iter().find(late);
        late.map_or(MILESTONE, |s| s.lasts)
    }
}

fn spec(random: &mut Random, pace: &Pace, place: usize, ranks: &[u64]) -> Spec {
    let kind = match random.below(100) {
        0..25 => ServiceType::Exec,
        25..60 => ServiceType::Notify,
        60..85 => ServiceType::Probe,
        _ => ServiceType::Oneshot,
    };
    let mut config = ServiceConfig {
        exec: Some(vec![format!("/bin/s{place}")]),
        r#type: Some(kind),
        required: Some(random.percent(30)),
        restart: Some(random.pick(&[
            RestartPolicy::Never,
            RestartPolicy::OnFailure,
            RestartPolicy::OnFailure,
            RestartPolicy::Always,
            RestartPolicy::Always,
        ])),
        start_timeout: Some(DurationText(random.spread(2_000, 120_000))),
        ..ServiceConfig::default()
    };
    let (mut after, mut requires, mut wants) = (Vec::new(), Vec::new(), Vec::new());
    for (other, rank) in ranks.iter().enumerate() {
        if *rank < ranks[place] {
            match random.below(100) {
                0..30 => requires.push(format!("s{other}")),
                30..42 => wants.push(format!("s{other}")),
                42..58 => after.push(format!("s{other}")),
                _ => {}
            }
        }
    }
    for milestone in ["net", "var"] {
        if random.percent(12) {
            after.push(milestone.to_owned());
        }
    }
    (config.after, config.requires) = (Some(after), Some(requires));
    config.wants = Some(wants);
    config.reload_signal = random.percent(80).then(|| "HUP".to_owned());
    if random.percent(25) {
        let checks = 1 + random.below(3);
        config.pre_start = Some((0..checks).map(|n| vec![format!("/bin/c{n}")]).collect());
    }
    if kind == ServiceType::Notify && random.percent(60) {
        config.watchdog = Some(spread(random, pace.watchdogs));
    }
    config.backoff = backoff(random);
    config.intensity = intensity(random);
    config.stop = StopConfig {
        mode: Some(random.pick(&[StopMode::Process, StopMode::Process, StopMode::Tree])),
        signal: Some(random.pick(&["TERM", "INT", "QUIT"]).to_owned()),
        timeout: Some(if random.percent(5) {
            DurationText(Duration::ZERO)
        } else {
            spread(random, (500, 30_000))
        }),
    };
    if kind != ServiceType::Oneshot {
        if random.percent(25) {
            config.probe.startup = probe(random, pace);
        }
        if random.percent(35) || kind == ServiceType::Probe && config.probe.startup.tcp.is_none() {
            config.probe.readiness = probe(random, pace);
        }
        if random.percent(50) {
            config.probe.liveness = probe(random, pace);
        }
    }
    match Spec::from_config(&format!("s{place}"), config) {
        Ok(mut spec) => {
            if kind == ServiceType::Probe {
                // A service that can never be ready in time is a dull one.
                let asked = |p: &Probe| p.interval * (p.successes + 2);
                let probes = [&spec.startup, &spec.readiness].into_iter().flatten();
                let least: Duration = probes.map(asked).sum();
                spec.start_timeout = spec.start_timeout.max(least);
            }
            spec
        }
        Err(errors) => panic!("the generator made {errors:?}"),
    }
}

fn spread(random: &mut Random, (low, high): (u64, u64)) -> DurationText {
    DurationText(random.spread(low, high))
}

fn backoff(random: &mut Random) -> BackoffConfig {
    let base = random.spread(100, 30_000);
    BackoffConfig {
        initial: Some(if random.percent(60) {
            DurationText(Duration::ZERO)
        } else {
            spread(random, (50, 5_000))
        }),
        base: Some(DurationText(base)),
        max: Some(DurationText(base + random.spread(1, 600_000))),
        jitter: Some(random.pick(&[0.0, 0.1, 0.5, 1.0])),
        reset_after: Some(spread(random, (1_000, 1_800_000))),
    }
}

fn intensity(random: &mut Random) -> IntensityConfig {
    IntensityConfig {
        restarts: Some(u32::try_from(random.below(7)).unwrap_or(0)),
        within: Some(spread(random, (10_000, 3_600_000))),
        then: Some(random.pick(&[
            Escalation::RestartGroup,
            Escalation::RestartGroup,
            Escalation::Reboot,
            Escalation::Degraded,
        ])),
        retry_after: Some(if random.percent(15) {
            DurationText(Duration::ZERO)
        } else {
            spread(random, (30_000, 3_600_000))
        }),
    }
}

fn probe(random: &mut Random, pace: &Pace) -> ProbeConfig {
    ProbeConfig {
        tcp: Some("127.0.0.1:1".into()),
        interval: Some(spread(random, pace.intervals)),
        timeout: Some(spread(random, pace.timeouts)),
        failures: Some(u32::try_from(1 + random.below(4)).unwrap_or(1)),
        successes: Some(u32::try_from(1 + random.below(3)).unwrap_or(1)),
        ..ProbeConfig::default()
    }
}

/// The services as `init.toml` would have them.
pub fn toml(specs: &[Spec]) -> String {
    let mut text = String::new();
    for spec in specs {
        let ms = |d: Duration| format!("\"{}ms\"", d.as_millis());
        let _ = writeln!(text, "[service.{}]", spec.name);
        let _ = writeln!(
            text,
            "exec = {:?}\ntype = {:?}",
            spec.exec,
            spec.kind.name()
        );
        let restart = match spec.restart {
            RestartPolicy::Never => "never",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Always => "always",
        };
        let _ = writeln!(text, "restart = {restart:?}\nrequired = {}", spec.required);
        let _ = writeln!(
            text,
            "after = {:?}\nrequires = {:?}\nwants = {:?}",
            spec.after, spec.requires, spec.wants
        );
        let _ = writeln!(text, "pre-start = {:?}", spec.pre_start);
        let _ = writeln!(text, "start-timeout = {}", ms(spec.start_timeout));
        if let Some(watchdog) = spec.watchdog {
            let _ = writeln!(text, "watchdog = {}", ms(watchdog));
        }
        let b = &spec.backoff;
        let _ = writeln!(
            text,
            "backoff = {{ initial = {}, base = {}, max = {}, jitter = {:?}, reset-after = {} }}",
            ms(b.initial),
            ms(b.base),
            ms(b.max),
            b.jitter,
            ms(b.reset_after)
        );
        let i = &spec.intensity;
        let _ = writeln!(
            text,
            "intensity = {{ restarts = {}, within = {}, then = {:?}, retry-after = {} }}",
            i.restarts,
            ms(i.within),
            i.then.name(),
            ms(i.retry_after.unwrap_or_default())
        );
        let stop = ms(spec.stop_timeout);
        let _ = writeln!(
            text,
            "stop = {{ mode = {:?}, timeout = {stop} }} # signal {}",
            spec.stop_mode, spec.stop_signal
        );
        for kind in ProbeKind::ALL {
            if let Some(Probe {
                interval,
                timeout,
                failures,
                successes,
                ..
            }) = spec.probe(kind)
            {
                let _ = writeln!(
                    text,
                    "probe.{} = {{ tcp = \"127.0.0.1:1\", interval = {}, timeout = {}, failures = {failures}, successes = {successes} }}",
                    kind.name(),
                    ms(*interval),
                    ms(*timeout)
                );
            }
        }
        text.push('\n');
    }
    text
}
