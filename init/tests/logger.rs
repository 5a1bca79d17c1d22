//! The role `logger` as it runs: nothing that stalls, floods, fills up or hangs up makes anybody
//! wait, and every lost line is counted. Needs root and a cgroup2 mount.

mod logger_rig;

use logger_rig::{Folder, Rig};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use supervisor::event::ROUTINE;
use supervisor::logger::protocol::{Report, Request};

/// How many lines of `s` this line of the console confesses, if it does for this reason.
fn confessed(line: &str, reason: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" log.lost service=s lines=")?;
    let (lines, why) = rest.split_once(" reason=")?;
    (why == reason).then(|| lines.parse().unwrap())
}

/// A file that serves as a console which takes everything.
fn console_in(folder: &Folder) -> String {
    let path = folder.path.join("console");
    File::create(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What a line of a file says, without its time.
fn said(line: &str) -> &str {
    let (time, text) = line.split_once(' ').unwrap();
    let (seconds, millis) = time.split_once('.').unwrap();
    assert!(
        seconds.parse::<u64>().is_ok() && millis.len() == 3,
        "{line}"
    );
    text
}

#[test]
fn a_stalled_console_blocks_nobody_and_every_lost_line_is_counted() {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let console = ptsname(&terminal, Vec::new()).unwrap();
    let console = console.into_string().unwrap();
    // Held open, so that the terminal is not hung up between two opens by the logger.
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let _keep = rustix::fs::open(console.as_str(), flags, Mode::empty()).unwrap();
    let rig = Rig::start(&["--console", &console]);

    // Nobody reads the terminal. Far more than it and the logger's queue can hold goes in.
    const OFFERED: u64 = 20_000;
    for number in 0..OFFERED {
        rig.say(format!("{number:06} {}\n", "x".repeat(90)).as_bytes());
    }
    rig.tell("boot.healthy");

    // Now somebody reads. What was shown and what was confessed must add up to what was offered.
    let mut reader = BufReader::new(File::from(terminal));
    let (mut shown, mut lost, mut last) = (0, 0, None);
    let mut line = String::new();
    while shown + lost < OFFERED {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        if let Some(text) = line.strip_prefix("s: ") {
            let number: u64 = text[..6].parse().unwrap();
            assert!(
                last.is_none_or(|l| l < number),
                "out of order: {last:?} {number}"
            );
            assert_eq!(text.len(), 97, "a torn line");
            (shown, last) = (shown + 1, Some(number));
        } else {
            lost += confessed(line, "console").unwrap_or(0);
        }
        assert!(
            shown + lost <= OFFERED,
            "{shown} shown and {lost} lost of {OFFERED}"
        );
    }
    assert!(shown > 1000, "the queue holds more than that");
    assert!(lost > 1000, "the stall was real");
    let Report::Lost { console, .. } = rig.report();
    assert!(console > 0);
}

#[test]
fn a_service_that_floods_is_held_back_and_counted_exactly() {
    let folder = Folder::new();
    let console = console_in(&folder);
    // A window longer than the test.
    let mut rig = Rig::start(&["--console", &console, "--limit", "s=100/3600000"]);
    for number in 0..100_000u64 {
        rig.say(format!("{number}\n").as_bytes());
    }
    rig.settle();
    let request = Request::Logs {
        service: Some("s".into()),
        lines: 1000,
        follow: false,
    };
    let lines = rig.answer(&request);
    rig.stop();
    let console = folder.read("console");
    let shown: Vec<&str> = console
        .lines()
        .filter_map(|l| l.strip_prefix("s: "))
        .collect();
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(shown, expected);
    let kept: Vec<&str> = lines.iter().map(|l| l["line"].as_str().unwrap()).collect();
    assert_eq!(kept, expected, "and nothing more is in memory");
    let lost: Vec<u64> = console
        .lines()
        .filter_map(|l| confessed(l, "rate"))
        .collect();
    assert_eq!(lost, [99_900]);
}

#[test]
fn what_was_held_back_is_told_when_the_window_ends_though_nothing_more_comes() {
    let (console, console_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&console_end, true).unwrap();
    let options = ["--console-fd", "6", "--limit", "s=1/50"];
    let rig = Rig::start_with(&options, b"1\n2\n3\n", b"", Some(console_end));
    let mut lines = BufReader::new(File::from(console))
        .lines()
        .map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "s: 1");
    assert_eq!(confessed(&lines.next().unwrap(), "rate"), Some(2));
    let expected = Report::Lost {
        service: "s".into(),
        console: 0,
        rate: 2,
        file: 0,
    };
    assert_eq!(rig.report(), expected);
}

#[test]
fn the_last_words_of_a_service_are_in_its_exit_record() {
    let folder = Folder::new();
    let logs = folder.path.join("logs");
    let options = ["--console", "/dev/null", "--dir", logs.to_str().unwrap()];
    let exit = "service.exit service=s pid=7 signal=9";
    let mut output = String::new();
    for number in 0..4000 {
        output.push_str(&format!("line {number}\n"));
    }
    output.push_str("and then I d");
    // Both pipes have something in the first turn, more than one read takes.
    let told = format!("init: 9.999 {exit}\n");
    let mut rig = Rig::start_with(&options, output.as_bytes(), told.as_bytes(), None);
    rig.settle();
    for number in 0..200 {
        rig.say(format!("life {number}\n").as_bytes());
        rig.tell(exit);
        rig.settle();
        let records = rig.answer(&Request::Exits {
            service: Some("s".into()),
        });
        let last = records.last().unwrap();
        assert_eq!(last["event"], format!("init: 9.999 {exit}"));
        let lines = last["lines"].as_array().unwrap();
        assert_eq!(lines.len(), 20);
        assert_eq!(lines[19], format!("life {number}"));
        if number == 0 {
            let first = records[0]["lines"].as_array().unwrap();
            assert_eq!(first[18], "line 3999");
            assert_eq!(first[19], "and then I d");
            assert_eq!(lines[18], "and then I d", "not joined to the next life");
        }
    }
    rig.stop();
    let written = std::fs::read_to_string(logs.join("exits.jsonl")).unwrap();
    assert_eq!(written.lines().count(), 201);

    // As after a reboot: another logger finds them. It answers before it has read them, too.
    let rig = Rig::start(&options);
    let all = Request::Exits { service: None };
    let records = loop {
        let records = rig.answer(&all);
        if !records.is_empty() {
            break records;
        }
    };
    let last: serde_json::Value = serde_json::from_str(written.lines().last().unwrap()).unwrap();
    assert_eq!(records.len(), 8);
    assert_eq!(records[7], last);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(last["boot"], boot.trim_end());
    assert!(last["time"]["unix"].as_u64().is_some_and(|unix| unix > 0));
}

#[test]
fn what_the_logger_itself_has_to_say_is_told_among_the_events() {
    let folder = Folder::new();
    let console = console_in(&folder);
    let blocked = folder.path.join("a-file");
    std::fs::write(&blocked, "").unwrap();
    let dir = blocked.join("logs");
    let mut rig = Rig::start(&["--console", &console, "--dir", dir.to_str().unwrap()]);
    let request = Request::Logs {
        service: Some("init".into()),
        lines: 100,
        follow: true,
    };
    let mut events = rig.ask(&request).lines().map(Result::unwrap);
    let told = events
        .find(|line| line.contains(" log.warning what=files error="))
        .unwrap();
    assert!(told.contains("a-file/logs: Not a directory"), "{told}");
    rig.stop();
    assert!(folder.read("console").contains(" log.warning what=files "));
}

#[test]
fn a_routine_event_is_kept_and_not_shown() {
    let folder = Folder::new();
    let console = console_in(&folder);
    let options = ["--console", &console, "--dir", folder.text()];
    let routine = format!("{ROUTINE}init: 9.999 a.routine\n");
    let mut rig = Rig::start_with(&options, b"", routine.as_bytes(), None);
    rig.tell("a.other");
    let request = Request::Logs {
        service: Some("init".into()),
        lines: 10,
        follow: true,
    };
    let mut told = rig.ask(&request).lines().map(Result::unwrap);
    assert!(told.any(|line| line.contains("\"init: ") && line.contains("a.routine")));
    assert!(told.any(|line| line.contains("a.other")));
    rig.stop();
    let shown = folder.read("console");
    assert!(
        shown.contains("a.other") && !shown.contains("a.routine"),
        "{shown}"
    );
    let kept = folder.read("init.log");
    assert!(kept.contains(" init: 9.999 a.routine\n"), "{kept}");
}

#[test]
fn a_client_that_does_not_read_is_told_how_much_it_missed() {
    let rig = Rig::start(&["--console", "/dev/null"]);
    let follow = Request::Logs {
        service: Some("s".into()),
        lines: 0,
        follow: true,
    };
    let mut client = rig.ask(&follow).lines().map(Result::unwrap);
    assert_eq!(client.next().unwrap(), r#"{"ok":true}"#);
    const OFFERED: u64 = 50_000;
    for number in 0..OFFERED {
        rig.say(format!("{number} {}\n", "x".repeat(60)).as_bytes());
    }
    rig.settle();
    let (mut next, mut missed) = (0, 0);
    while next < OFFERED {
        let line: serde_json::Value = serde_json::from_str(&client.next().unwrap()).unwrap();
        if let Some(lost) = line["lost"].as_u64() {
            (next, missed) = (next + lost, missed + lost);
        } else {
            let text = line["line"].as_str().unwrap();
            assert_eq!(text.split(' ').next(), Some(next.to_string().as_str()));
            next += 1;
        }
    }
    assert_eq!(next, OFFERED);
    assert!(missed > 10_000, "it did miss some: {missed}");
    // And from there on it has everything again.
    rig.say(b"last\n");
    assert!(client.next().unwrap().ends_with("\"line\":\"last\"}"));
}

#[test]
fn clients_are_answered_bounded_and_forgotten() {
    let rig = Rig::start(&["--console", "/dev/null"]);
    rig.say(b"one\ntwo\n");
    rig.tell("boot.healthy");
    rig.settle();
    let logs = |service: Option<&str>, lines, follow| Request::Logs {
        service: service.map(str::to_owned),
        lines,
        follow,
    };
    let all = rig.answer(&logs(None, 4, false));
    let said: Vec<&str> = all.iter().map(|l| l["line"].as_str().unwrap()).collect();
    assert_eq!(
        said,
        ["one", "two", "init: 9.999 boot.healthy", "init: 9.999 mark"]
    );
    assert_eq!(
        (&all[0]["service"], &all[2]["service"]),
        (&"s".into(), &"init".into())
    );
    assert!(all[0]["at_ms"].as_u64() <= all[3]["at_ms"].as_u64());
    for request in [
        logs(Some("nobody"), 1, true),
        Request::Exits {
            service: Some("nobody".into()),
        },
    ] {
        let mut answer = String::new();
        rig.ask(&request).read_to_string(&mut answer).unwrap();
        assert_eq!(
            answer,
            "{\"ok\":false,\"error\":\"there is no service `nobody`\"}\n"
        );
    }

    let before = rig.descriptors();
    for _ in 0..3 {
        let mut clients: Vec<_> = (0..16).map(|_| rig.ask(&logs(None, 1, true))).collect();
        for client in &mut clients {
            let mut first = String::new();
            client.read_line(&mut first).unwrap();
            assert_eq!(first, "{\"ok\":true}\n");
            // Nobody reads this, and it does no harm.
            client.get_mut().write_all(b"{\"what\":1}\n").unwrap();
        }
        let mut answer = String::new();
        let mut refused = rig.ask(&logs(None, 1, true));
        refused.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("{\"ok\":false,\"error\":\"too many"));
        drop((clients, refused));
        while rig.descriptors() > before {
            std::thread::yield_now();
        }
    }
}

#[test]
fn any_bytes_arrive_completely_in_the_files() {
    let folder = Folder::new();
    let log = folder.path.join("s.log");
    let options = ["--console", "/dev/null", "--file-size", "1000000000"];
    let mut rig = Rig::start(&[&options[..], &["--dir", folder.text()]].concat());
    let held = || std::fs::metadata(&log).map_or(0, |m| m.len());

    // Every byte but the line break and the backslash, by which the others are told, in random
    // order, so that there are whole, broken and overlong sequences; then one line of 10 MB.
    let mut random = 1u64;
    let strange: Vec<u8> = (0..200_000)
        .map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            random.to_be_bytes()[0]
        })
        .filter(|b| ![b'\n', b'\\'].contains(b))
        .collect();
    let endless: Vec<u8> = (0..10_000_000u32).map(|n| b'a' + (n % 23) as u8).collect();
    let mut offered = 0;
    for line in [&strange, &endless] {
        // As fast as the disk takes it, as more would rightly be lost.
        for part in line.chunks(128 * 1024) {
            rig.say(part);
            offered += part.len() as u64;
            // All but the line that is not complete yet is there.
            while held() + 1024 < offered {
                std::thread::yield_now();
            }
        }
        rig.say(b"\n");
    }
    rig.settle();
    rig.stop();
    let written = std::fs::read(&log).unwrap();
    let mut lines = written.strip_suffix(b"\n").unwrap().split(|b| *b == b'\n');
    assert_eq!(lines.next().unwrap(), b"-- boot --");
    let mut bytes = Vec::new();
    for line in lines {
        let text = said(std::str::from_utf8(line).unwrap());
        assert!(!text.contains(|c: char| c.is_control() && c != '\t'));
        let mut parts = text.split("\\x");
        bytes.extend(parts.next().unwrap().as_bytes());
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend(&part.as_bytes()[2..]);
        }
    }
    assert!(bytes == [strange, endless].concat(), "a byte is missing");
}

#[test]
fn a_full_disk_loses_lines_of_the_files_only_and_each_is_counted() {
    let (folder, disk) = (Folder::new(), Folder::small());
    let console = console_in(&folder);
    let mut rig = Rig::start(&["--console", &console, "--dir", disk.text()]);
    const OFFERED: usize = 3000;
    for number in 0..OFFERED {
        rig.say(format!("{number:06} {}\n", "x".repeat(50)).as_bytes());
    }
    rig.settle();
    rig.stop();
    let console = folder.read("console");
    let shown = console.lines().filter(|l| l.starts_with("s: "));
    assert_eq!(shown.count(), OFFERED);
    let log = disk.read("s.log");
    let kept = log.lines().skip(1).filter(|l| said(l).len() == 57).count();
    assert_eq!(log.lines().count(), kept + 1, "a torn line");
    let lost: u64 = console.lines().filter_map(|l| confessed(l, "file")).sum();
    assert_eq!(kept as u64 + lost, OFFERED as u64);
    assert!(kept > 500 && lost > 500, "{kept} kept and {lost} lost");
    assert!(!console.contains("reason=console"));
    let Report::Lost { console, rate, .. } = rig.report();
    assert_eq!((console, rate), (0, 0));
}

#[test]
fn a_disk_that_hangs_makes_nobody_wait() {
    let (folder, disk) = (Folder::new(), Folder::disk());
    let console = console_in(&folder);
    let mut rig = Rig::start(&["--console", &console, "--dir", disk.text()]);
    let hanging = disk.hang();
    const OFFERED: u64 = 50_000;
    for number in 0..OFFERED {
        rig.say(format!("{number:06} {}\n", "x".repeat(59)).as_bytes());
    }
    rig.settle();
    let console = folder.read("console");
    let shown = console.lines().filter(|l| l.starts_with("s: "));
    assert_eq!(shown.count() as u64, OFFERED);
    let told = console.lines().any(|l| confessed(l, "file").is_some());
    assert!(told, "more waits for the disk than the queue may hold");
    rig.ask_to_stop();
    // The last report has what was given up at the end: the disk took none of it.
    loop {
        let Report::Lost { service, file, .. } = rig.report();
        assert!(file <= OFFERED, "{file}");
        if service == "s" && file == OFFERED {
            break;
        }
    }
    // A process with a thread in a write that waits does not end.
    drop(hanging);
    rig.stop();
}

#[test]
fn rotation_keeps_three_and_another_start_goes_on() {
    let folder = Folder::new();
    let dir = folder.path.join("made/here");
    let options = ["--console", "/dev/null", "--file-size", "1000"];
    let options = [&options[..], &["--dir", dir.to_str().unwrap()]].concat();
    let mut all = String::new();
    for start in 0..2 {
        let mut rig = Rig::start(&options);
        for number in 0..200 {
            let line = format!("{start} {number:04} {}\n", "x".repeat(30));
            rig.say(line.as_bytes());
            all.push_str(&line);
        }
        rig.settle();
        rig.stop();
    }
    let read = |name: &str| std::fs::read_to_string(Path::new(&dir).join(name)).unwrap();
    let mut kept = String::new();
    for name in ["s.log.3", "s.log.2", "s.log.1", "s.log"] {
        let text = read(name);
        assert!((1..=1000).contains(&text.len()), "{name}: {}", text.len());
        for line in text.lines() {
            kept.push_str(said(line));
            kept.push('\n');
        }
    }
    assert!(all.ends_with(&kept) && kept.len() > 2000);
    assert!(!dir.join("s.log.4").exists());
    let events = read("init.log");
    assert_eq!(
        events.lines().filter(|l| *l == "-- boot --").count(),
        1,
        "the same boot, twice a logger"
    );
    assert_eq!(events.matches("init: 9.999 mark").count(), 2);
}
