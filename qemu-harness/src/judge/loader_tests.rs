use super::*;
use proptest::prelude::*;

fn entry(file: &str, version: &str) -> Entry {
    let text = format!("ID=debian\nIMAGE_ID=\"os\"\nIMAGE_VERSION='{version}'\n");
    Entry::new(file, text.as_bytes()).unwrap()
}

fn sorted(mut entries: Vec<Entry>) -> Vec<String> {
    entries.sort_by(order);
    entries.into_iter().map(|entry| entry.file).collect()
}

/// The rows of the comment in `boot_entry_parse_tries`, and what is no counter.
#[test]
fn counters_are_at_the_end_of_the_name() {
    let some = |left, done| Some(Tries { left, done });
    for (file, expected) in [
        ("foobar+3.efi", some(3, 0)),
        ("foobar+4-0.efi", some(4, 0)),
        ("foobar+0-4.efi", some(0, 4)),
        ("a+1+2-3.efi", some(2, 3)),
        ("foobar.efi", None),
        ("foobar+3-1-2.efi", None),
        ("foobar+3x.efi", None),
        ("foobar+3.EFI", None),
        ("foobar+-1.efi", None),
        ("foobar+.efi", None),
        ("foobar+2147483648.efi", None),
    ] {
        assert_eq!(tries(file), expected, "{file}");
    }
}

#[test]
fn the_newest_with_tries_left_is_first() {
    let all = vec![
        entry("os_3+0-3.efi", "3"),
        entry("os_1.efi", "1"),
        entry("os_10+3-0.efi", "10"),
        entry("os_2.efi", "2"),
        entry("os_4+0-0.efi", "4"),
    ];
    assert_eq!(
        sorted(all),
        [
            "os_10+3-0.efi",
            "os_2.efi",
            "os_1.efi",
            "os_4+0-0.efi",
            "os_3+0-3.efi"
        ]
    );
}

#[test]
fn os_release_decides_before_the_name() {
    assert_eq!(
        sorted(vec![entry("z.efi", "1"), entry("a.efi", "2")]),
        ["a.efi", "z.efi"]
    );
    // Equal versions: the name; of one name, more tries left.
    let twins = ["os_1b.efi", "os_2+1-2.efi", "os_2+2-1.efi"].map(|file| entry(file, "2"));
    assert_eq!(
        sorted(twins.to_vec()),
        ["os_2+2-1.efi", "os_2+1-2.efi", "os_1b.efi"]
    );
}

#[test]
fn an_entry_without_a_key_is_after_those_with_one() {
    let plain = Entry::new("z_9.efi", b"NAME=plain\nVERSION=9\n").unwrap();
    assert_eq!(
        (&plain.sort_key, plain.version.as_deref()),
        (&None, Some("9"))
    );
    assert_eq!(
        sorted(vec![plain, entry("a.efi", "1")]),
        ["a.efi", "z_9.efi"]
    );
}

#[test]
fn what_names_no_system_is_not_listed() {
    for text in ["", "VERSION=1\n", "#ID=x\n", "ID\n", "\0ID=x\n"] {
        assert_eq!(Entry::new("a.efi", text.as_bytes()), None, "{text:?}");
    }
    for file in ["a.tmp", ".a.efi", "auto-a.efi", "efi"] {
        assert_eq!(Entry::new(file, b"ID=x\n"), None, "{file}");
    }
    assert!(Entry::new("A.EFI", b" ID = x\r\nID=y").is_some());
}

#[test]
fn one_shot_is_before_default_and_both_take_bad_entries() {
    let mut all = vec![entry("os_2+0-0.efi", "2"), entry("OS_1.efi", "1")];
    all.sort_by(order);
    let chosen = |one_shot, default| {
        let (entry, rule) = choose(&all, one_shot, default).unwrap();
        (entry.file.as_str(), rule)
    };
    assert_eq!(chosen(None, None), ("OS_1.efi", Rule::First));
    assert_eq!(
        chosen(Some("os_2.efi"), None),
        ("os_2+0-0.efi", Rule::OneShot)
    );
    assert_eq!(
        chosen(Some("os_2+0-0.efi"), None),
        ("OS_1.efi", Rule::First)
    );
    assert_eq!(
        chosen(Some("gone"), Some("os_2*")),
        ("os_2+0-0.efi", Rule::Default)
    );
    assert_eq!(chosen(None, Some("OS_*.efi")), ("OS_1.efi", Rule::Default));
    assert_eq!(choose(&[], Some("a"), Some("b")), None);
}

#[test]
fn the_last_default_counts() {
    let text = "#default a\ntimeout 3\ndefault\tb*\n default   \"c d\" \ndefault @saved\n";
    assert_eq!(default(text).as_deref(), Some("c d"));
    assert_eq!(default("timeout menu-disabled\neditor no\n"), None);
}

/// Rows of `test-efi-string.c`.
#[test]
fn patterns_are_those_of_the_loader() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("abc", "abc", true),
        ("aBc", "abc", false),
        ("*", "", true),
        ("*a", "abcabda", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-b-b-d", false),
        ("a?c", "abc", true),
        ("?", "", false),
        ("[abc]", "b", true),
        ("[a-c]x", "bx", true),
        ("[]-]", "-", true),
        ("[abc", "a", false),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("astromesh-os_*", "astromesh-os_2+0-0.efi", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}

proptest! {
    #[test]
    fn it_is_an_order(all in prop::collection::vec(("[a-c]{1,2}(\\+[0-2](-[0-2])?)?", "[0-2.]{0,3}"), 3)) {
        let all: Vec<_> = all.iter().map(|(file, version)| entry(&format!("{file}.efi"), version)).collect();
        let [a, b, c] = [&all[0], &all[1], &all[2]];
        prop_assert_eq!(order(a, b), order(b, a).reverse());
        if order(a, b) != Ordering::Greater && order(b, c) != Ordering::Greater {
            prop_assert_ne!(order(a, c), Ordering::Greater);
        }
    }

    #[test]
    fn a_good_entry_wins_over_a_newer_bad_one(good in 0_u32..1000, bad in 0_u32..1000) {
        let mut all = vec![
            entry(&format!("os_{bad}+0-1.efi"), &bad.to_string()),
            entry(&format!("os_{good}.efi"), &good.to_string()),
        ];
        all.sort_by(order);
        let (chosen, _) = choose(&all, None, None).unwrap();
        prop_assert!(!chosen.is_bad());
    }
}
