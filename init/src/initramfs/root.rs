//! Which partitions are the root: pure, from what is seen.
//!
//! The roothash names both: its first 128 bits are the data partition's GUID, its last 128 bits
//! the hash partition's (Discoverable Partitions Specification). A copy of the image on a second
//! disk has the same GUIDs; so if the loader said which partition it came from, only that disk
//! counts as long as there is hope, and any other only when the time is up.

use crate::devices::disks::Partition;
use crate::devices::gpt::Guid;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Root {
    data: Guid,
    hash: Guid,
    loader: Option<Guid>,
}

/// What a look at the partitions gave.
#[expect(
    clippy::large_enum_variant,
    reason = "made a handful of times in a boot"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Both halves on one disk.
    Found {
        /// The data partition.
        data: Partition,
        /// The hash partition.
        hash: Partition,
        /// Whether the loader came from another disk.
        elsewhere: bool,
    },
    /// What is missing, in words for the failure.
    Missing(String),
}

impl Root {
    /// The root of this hash; `loader` is the partition the loader came from, if it said so.
    #[must_use]
    pub fn of(roothash: &[u8; 32], loader: Option<Guid>) -> Self {
        let (first, last) = roothash.split_at(16);
        let guid =
            |half: &[u8]| Guid::from_text_order(half.first_chunk().copied().unwrap_or_default());
        Self {
            data: guid(first),
            hash: guid(last),
            loader,
        }
    }

    /// Looks for both halves on one disk.
    #[must_use]
    pub fn choose(&self, partitions: &[Partition], time_is_up: bool) -> Choice {
        let boot_disk = self
            .loader
            .and_then(|loader| partitions.iter().find(|p| p.guid == loader))
            .map(|p| p.disk.as_str());
        let pair = |data: &Partition| {
            let hash = partitions
                .iter()
                .find(|p| p.guid == self.hash && p.disk == data.disk)?;
            Some((data.clone(), hash.clone()))
        };
        let mut pairs: Vec<_> = partitions
            .iter()
            .filter(|p| p.guid == self.data)
            .filter_map(pair)
            .collect();
        pairs.sort_by_key(|(data, _)| Some(data.disk.as_str()) != boot_disk);
        let Some((data, hash)) = pairs.into_iter().next() else {
            return Choice::Missing(self.missing(partitions));
        };
        let elsewhere = self.loader.is_some() && boot_disk != Some(data.disk.as_str());
        if elsewhere && !time_is_up {
            return Choice::Missing("the root on the disk the loader came from".into());
        }
        Choice::Found {
            data,
            hash,
            elsewhere,
        }
    }

    fn missing(&self, partitions: &[Partition]) -> String {
        let there = |guid| partitions.iter().any(|p| p.guid == guid);
        let (data, hash) = (self.data, self.hash);
        match (there(data), there(hash)) {
            (false, false) => format!("root data PARTUUID={data} and root hash PARTUUID={hash}"),
            (false, true) => format!("root data PARTUUID={data}"),
            (true, false) => format!("root hash PARTUUID={hash}"),
            (true, true) => {
                format!("root data PARTUUID={data} and root hash PARTUUID={hash} on one disk")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash() -> [u8; 32] {
        std::array::from_fn(|i| if i < 16 { 0xaa } else { 0xbb })
    }

    fn partition(disk: &str, number: u32, guid: u8) -> Partition {
        Partition {
            name: format!("{disk}{number}"),
            disk: disk.into(),
            number: format!("254:{number}"),
            size: 1,
            type_guid: Guid([0; 16]),
            guid: Guid([guid; 16]),
        }
    }

    fn found(choice: Choice) -> (String, bool) {
        match choice {
            Choice::Found {
                data, elsewhere, ..
            } => (data.name, elsewhere),
            Choice::Missing(what) => panic!("{what}"),
        }
    }

    #[test]
    fn halves_are_named_when_missing() {
        let root = Root::of(&hash(), None);
        let say = |partitions: &[Partition]| match root.choose(partitions, true) {
            Choice::Missing(what) => what,
            Choice::Found { .. } => panic!("found"),
        };
        assert!(
            say(&[]).contains("data PARTUUID=aaaaaaaa-")
                && say(&[]).contains("hash PARTUUID=bbbbbbbb-")
        );
        assert!(!say(&[partition("vda", 2, 0xaa)]).contains("data"));
        assert!(
            say(&[partition("vda", 2, 0xaa), partition("vdb", 3, 0xbb)]).contains("on one disk")
        );
    }

    #[test]
    fn the_loaders_disk_comes_first_and_others_only_when_time_is_up() {
        let copy = [partition("vda", 2, 0xaa), partition("vda", 3, 0xbb)];
        let boot = [
            partition("vdb", 1, 0xcc),
            partition("vdb", 2, 0xaa),
            partition("vdb", 3, 0xbb),
        ];
        let both = [copy.as_slice(), boot.as_slice()].concat();
        let root = Root::of(&hash(), Some(Guid([0xcc; 16])));
        assert_eq!(found(root.choose(&both, false)), ("vdb2".into(), false));
        assert!(matches!(root.choose(&copy, false), Choice::Missing(_)));
        assert_eq!(found(root.choose(&copy, true)), ("vda2".into(), true));
        assert_eq!(
            found(Root::of(&hash(), None).choose(&both, false)),
            ("vda2".into(), false)
        );
    }
}
