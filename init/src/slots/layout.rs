//! Which partitions are the two slots and the ESP: pure, from what is seen.
//!
//! Only the disk of the running root counts. It has one ESP, two roots and two hash trees, told by the
//! types of the Discoverable Partitions Specification; the first root and the first tree on the disk are
//! slot a, the second ones slot b. The running slot is the one whose GUIDs are the halves of the running
//! roothash. Anything else is a riddle: nothing is written to a disk that is not understood.

use crate::devices::disks::Partition;
use crate::devices::gpt::Guid;
use crate::initramfs::root::{Choice, Root};

/// Types of the Discoverable Partitions Specification (UAPI.2), for x86-64.
const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Of a root.
const ROOT_TYPE: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
/// Of its hash tree.
const VERITY_TYPE: &str = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5";

/// A root and its hash tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// `a` or `b`, by the order on the disk.
    pub letter: char,
    /// The root.
    pub root: Partition,
    /// Its hash tree.
    pub verity: Partition,
}

impl Slot {
    /// Whether the roothash is that of this slot: its halves are the partitions' GUIDs.
    #[must_use]
    pub fn holds(&self, roothash: &[u8; 32]) -> bool {
        halves(roothash) == (self.root.guid, self.verity.guid)
    }

    /// Whether any half of the roothash is a GUID of this slot.
    #[must_use]
    pub fn touches(&self, roothash: &[u8; 32]) -> bool {
        let (data, hash) = halves(roothash);
        data == self.root.guid || hash == self.verity.guid
    }
}

/// The disk as the slots see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The disk's name, as `vda`.
    pub disk: String,
    /// Where the loader and the UKIs are.
    pub esp: Partition,
    /// The slot that runs.
    pub running: Slot,
    /// The one that an update overwrites.
    pub other: Slot,
}

/// The GUIDs of root and hash tree that a roothash names.
#[must_use]
pub fn halves(roothash: &[u8; 32]) -> (Guid, Guid) {
    let (first, last) = roothash.split_at(16);
    let guid = |half: &[u8]| Guid::from_text_order(half.first_chunk().copied().unwrap_or_default());
    (guid(first), guid(last))
}

/// Finds the slots of the machine that runs the root of this hash; `loader` is the partition that the
/// firmware started us from, if it said so.
///
/// # Errors
/// What is missing, or there twice.
pub fn find(
    partitions: &[Partition],
    roothash: &[u8; 32],
    loader: Option<Guid>,
) -> Result<Layout, String> {
    let disk = match Root::of(roothash, loader).choose(partitions, true) {
        Choice::Found { data, .. } => data.disk,
        Choice::Missing(what) => return Err(format!("the running root is on no disk: no {what}")),
    };
    let esp = match on(&disk, partitions, ESP_TYPE).as_slice() {
        [one] => (*one).clone(),
        found => return Err(count(&disk, "one ESP", ESP_TYPE, found)),
    };
    if let Some(loader) = loader.filter(|loader| *loader != esp.guid) {
        return Err(format!(
            "the firmware started from the partition {loader}, but the ESP on the root's disk {disk} is {} ({})",
            esp.name, esp.guid
        ));
    }
    let roots = on(&disk, partitions, ROOT_TYPE);
    let [root_a, root_b] = roots.as_slice() else {
        return Err(count(&disk, "two roots", ROOT_TYPE, &roots));
    };
    let trees = on(&disk, partitions, VERITY_TYPE);
    let [verity_a, verity_b] = trees.as_slice() else {
        return Err(count(&disk, "two hash trees", VERITY_TYPE, &trees));
    };
    let slot = |letter, root: &Partition, verity: &Partition| Slot {
        letter,
        root: root.clone(),
        verity: verity.clone(),
    };
    let a = slot('a', root_a, verity_a);
    let b = slot('b', root_b, verity_b);
    let (running, other) = match (a.holds(roothash), b.holds(roothash)) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        (true, true) => {
            return Err(format!(
                "both slots of {disk} have the GUIDs of the running root: which one runs cannot be told"
            ));
        }
        (false, false) => {
            return Err(format!(
                "the running root is no slot of {disk}: its root and hash tree are not the first ones or the second ones of their types"
            ));
        }
    };
    Ok(Layout {
        disk,
        esp,
        running,
        other,
    })
}

/// The partitions of a type on a disk, in the order of their numbers.
fn on<'a>(disk: &str, partitions: &'a [Partition], kind: &str) -> Vec<&'a Partition> {
    let kind = Guid::parse(kind);
    let mut found: Vec<&Partition> = partitions
        .iter()
        .filter(|p| p.disk == disk && Some(p.type_guid) == kind)
        .collect();
    found.sort_by_key(|p| number(&p.name));
    found
}

/// `vda2` and `nvme0n1p2` are number 2.
fn number(name: &str) -> Option<u32> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name.strip_prefix(stem)?.parse().ok()
}

fn count(disk: &str, wanted: &str, kind: &str, found: &[&Partition]) -> String {
    let names: Vec<&str> = found.iter().map(|p| p.name.as_str()).collect();
    let names = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    };
    format!("{disk} must have {wanted} (partition type {kind}); found: {names}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A roothash whose halves are all these bytes.
    pub fn hash(data: u8, tree: u8) -> [u8; 32] {
        std::array::from_fn(|i| if i < 16 { data } else { tree })
    }

    fn partition(disk: &str, number: u32, kind: &str, guid: u8) -> Partition {
        Partition {
            name: format!("{disk}{number}"),
            disk: disk.into(),
            number: format!("254:{number}"),
            size: 1,
            type_guid: Guid::parse(kind).unwrap(),
            guid: Guid([guid; 16]),
        }
    }

    /// A disk with these GUIDs of root a, tree a, root b and tree b; its ESP has `0xee`.
    pub fn disk(name: &str, guids: [u8; 4]) -> Vec<Partition> {
        let kinds = [ROOT_TYPE, VERITY_TYPE, ROOT_TYPE, VERITY_TYPE];
        let slots = (2..).zip(kinds).zip(guids);
        let mut all = vec![partition(name, 1, ESP_TYPE, 0xee)];
        all.extend(slots.map(|((number, kind), guid)| partition(name, number, kind, guid)));
        all
    }

    fn letters(partitions: &[Partition], roothash: &[u8; 32]) -> Result<(char, char), String> {
        let layout = find(partitions, roothash, Some(Guid([0xee; 16])))?;
        assert!(layout.running.holds(roothash) && !layout.other.holds(roothash));
        Ok((layout.running.letter, layout.other.letter))
    }

    #[test]
    fn the_running_slot_is_the_one_of_the_roothash() {
        let mut seen = disk("vda", [1, 2, 3, 4]);
        assert_eq!(letters(&seen, &hash(1, 2)), Ok(('a', 'b')));
        assert_eq!(letters(&seen, &hash(3, 4)), Ok(('b', 'a')));
        seen.reverse();
        assert_eq!(letters(&seen, &hash(1, 2)), Ok(('a', 'b')));
    }

    #[test]
    fn numbers_order_and_not_names() {
        assert!(number("nvme0n1p10") > number("nvme0n1p9"));
        assert_eq!(number("vda"), None);
    }

    #[test]
    fn half_a_hash_touches_and_does_not_hold() {
        let layout = find(&disk("vda", [1, 2, 3, 4]), &hash(1, 2), None).unwrap();
        assert!(layout.other.touches(&hash(3, 9)) && layout.other.touches(&hash(9, 4)));
        assert!(!layout.other.touches(&hash(4, 3)));
        assert!(!layout.other.holds(&hash(3, 9)));
    }

    #[test]
    fn riddles_are_told() {
        let whole = disk("vda", [1, 2, 3, 4]);
        let say = |partitions: &[Partition], roothash| letters(partitions, &roothash).unwrap_err();
        assert!(say(&whole, hash(8, 9)).contains("on no disk"));
        assert!(say(&whole, hash(1, 4)).contains("no slot of vda"));
        assert!(say(&disk("vda", [1, 2, 1, 2]), hash(1, 2)).contains("cannot be told"));
        assert!(say(&whole[1..], hash(1, 2)).contains("one ESP"));
        assert!(say(&whole[..4], hash(1, 2)).contains("two hash trees"));
        let third = [whole.as_slice(), &[partition("vda", 9, ROOT_TYPE, 7)]].concat();
        assert!(
            say(&third, hash(1, 2)).contains("two roots")
                && say(&third, hash(1, 2)).contains("vda2 vda4 vda9")
        );
        let elsewhere = find(&whole, &hash(1, 2), Some(Guid([0xdd; 16])));
        assert!(
            elsewhere
                .unwrap_err()
                .contains("started from the partition dddddddd-")
        );
    }
}
