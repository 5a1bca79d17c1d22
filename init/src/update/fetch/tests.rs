use super::*;
use crate::update::hash::Digest;
use proptest::prelude::*;
use std::collections::VecDeque;

/// Files in memory, behind a line that breaks as told.
pub(crate) struct Shelf {
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// At each opening: after how many bytes the line breaks, if it does.
    pub(crate) breaks: VecDeque<Option<usize>>,
    pub(crate) opened: Vec<(String, u64)>,
    /// Whether sizes can be told.
    pub(crate) tells: bool,
    /// Whether each opening sends the whole file, of which what is known already is passed over.
    pub(crate) skips: bool,
}

impl Shelf {
    pub(crate) fn of(files: &[(&str, &[u8])]) -> Self {
        Self {
            files: files
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
                .collect(),
            breaks: VecDeque::new(),
            opened: Vec::new(),
            tells: true,
            skips: false,
        }
    }

    fn file(&self, name: &str) -> Result<&Vec<u8>, SourceError> {
        let file = self.files.iter().find(|(own, _)| own == name);
        file.map(|(_, bytes)| bytes)
            .ok_or_else(|| SourceError::lasting(format!("{name}: not on the shelf")))
    }
}

impl Source for Shelf {
    fn open(&mut self, name: &str, offset: u64) -> Result<Opened, SourceError> {
        self.opened.push((name.to_owned(), offset));
        let bytes = self.file(name)?.clone();
        let total = bytes.len() as u64;
        let rest = bytes[usize::try_from(offset).unwrap()..].to_vec();
        let reader = Broken {
            left: self.breaks.pop_front().flatten(),
            rest: io::Cursor::new(rest),
        };
        Ok(Opened {
            reader: Box::new(reader),
            total: Some(total),
            skipped: if self.skips { offset } else { 0 },
        })
    }

    fn size(&mut self, name: &str) -> Result<Option<u64>, SourceError> {
        let size = self.file(name)?.len() as u64;
        Ok(self.tells.then_some(size))
    }

    fn place(&self, name: &str) -> String {
        format!("shelf/{name}")
    }
}

struct Broken {
    left: Option<usize>,
    rest: io::Cursor<Vec<u8>>,
}

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self
            .left
            .map_or(buffer.len(), |left| left.min(buffer.len()));
        if self.left == Some(0) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let count = self.rest.read(&mut buffer[..most])?;
        self.left = self.left.map(|left| left - count);
        Ok(count)
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i % 253).to_le_bytes()[0]).collect()
}

fn a_part(bytes: &[u8]) -> Part {
    Part {
        name: "a".into(),
        size: bytes.len() as u64,
        sha256: Digest::of(bytes),
    }
}

/// What came through, the waits and the reports.
type Fetched = (Result<(), End>, Vec<u8>, Vec<Duration>, Vec<u64>);

fn fetch(shelf: &mut Shelf, expected: &Part) -> Fetched {
    let (mut got, mut waits, mut reports) = (Vec::new(), Vec::new(), Vec::new());
    let result = part(
        shelf,
        expected,
        &mut |pause| waits.push(pause),
        &mut |bytes| {
            got.extend_from_slice(bytes);
            Ok(())
        },
        &mut |percent| reports.push(percent),
    );
    (result, got, waits, reports)
}

#[test]
fn it_goes_on_where_the_line_broke() {
    let file = bytes(1_000_000);
    let mut shelf = Shelf::of(&[("a", &file)]);
    shelf.breaks = [Some(100_000), Some(0), Some(0), Some(300_000)].into();
    let (result, got, waits, reports) = fetch(&mut shelf, &a_part(&file));
    assert_eq!(result, Ok(()));
    assert!(got == file);
    let seconds: Vec<u64> = waits.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [1, 2, 4, 1]);
    let offsets: Vec<u64> = shelf.opened.iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [0, 100_000, 100_000, 100_000, 400_000]);
    assert_eq!(reports.last(), Some(&100));
    assert!(reports.len() <= 20 && reports.is_sorted());
}

#[test]
fn patience_ends() {
    let file = bytes(100);
    let mut shelf = Shelf::of(&[("a", &file)]);
    shelf.breaks = vec![Some(1); 100].into();
    let (result, _, waits, _) = fetch(&mut shelf, &a_part(&file));
    let Err(End::Failed { reason, transient }) = result else {
        panic!("{result:?}");
    };
    assert!(transient && reason.starts_with("shelf/a: "), "{reason}");
    assert_eq!(waits.len(), 5);
}

#[test]
fn what_is_not_as_the_manifest_says_is_told() {
    let file = bytes(600_000);
    let expected = a_part(&file);
    let mut flipped = file.clone();
    flipped[300_000] ^= 4;
    for (there, say) in [
        (&[&file[..], b"x"].concat(), "longer than the 600000 bytes"),
        (&file[..599_999].to_vec(), "ends after 599999 bytes"),
        (&flipped, "its SHA-256 is"),
    ] {
        let (result, got, _, _) = fetch(&mut Shelf::of(&[("a", there)]), &expected);
        let Err(End::Failed { reason, transient }) = result else {
            panic!("{say}: {result:?}");
        };
        assert!(!transient && reason.contains(say), "{reason}");
        assert!(got.len() <= file.len());
    }
    let (result, ..) = fetch(&mut Shelf::of(&[]), &expected);
    assert!(matches!(
        result,
        Err(End::Failed {
            transient: false,
            ..
        })
    ));
}

#[test]
fn a_small_file_stays_small() {
    let mut shelf = Shelf::of(&[("a", &bytes(100))]);
    shelf.breaks = [Some(30)].into();
    assert_eq!(small(&mut shelf, "a", 100, &mut |_| ()), Ok(bytes(100)));
    let error = small(&mut shelf, "a", 99, &mut |_| ()).unwrap_err();
    assert!(
        !error.transient && error.message.contains("longer than 99"),
        "{error:?}"
    );
}

proptest! {
    #[test]
    fn whatever_the_line_does_the_bytes_are_right_or_it_fails(
        size in 1usize..300_000, breaks in proptest::collection::vec(proptest::option::of(0usize..150_000), 0..12),
    ) {
        let file = bytes(size);
        let mut shelf = Shelf::of(&[("a", &file)]);
        shelf.breaks = breaks.into();
        let (result, got, _, _) = fetch(&mut shelf, &a_part(&file));
        match result {
            Ok(()) => prop_assert!(got == file),
            Err(_) => prop_assert!(file.starts_with(&got)),
        }
    }
}

#[test]
fn a_server_without_ranges_that_breaks_again_and_again_is_given_up() {
    let file = bytes(2_000_000);
    let breaks = || vec![Some(70_000); 100].into();
    // With ranges each opening costs what it brings.
    let mut shelf = Shelf::of(&[("a", &file)]);
    shelf.breaks = breaks();
    assert_eq!(fetch(&mut shelf, &a_part(&file)).0, Ok(()));
    // Without, each costs all that went before: what it brings has to be worth it.
    let mut shelf = Shelf::of(&[("a", &file)]);
    (shelf.breaks, shelf.skips) = (breaks(), true);
    let (result, ..) = fetch(&mut shelf, &a_part(&file));
    assert!(
        matches!(
            result,
            Err(End::Failed {
                transient: true,
                ..
            })
        ),
        "{result:?}"
    );
    let cost: u64 = shelf.opened.iter().map(|(_, offset)| offset + 70_000).sum();
    assert!(cost < 4_000_000, "{cost} bytes were fetched");
}
