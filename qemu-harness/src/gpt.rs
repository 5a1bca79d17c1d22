//! The partitions of a disk image, as sfdisk of the tools root reads them.

use crate::tools::Tools;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::Path;

/// Type of the root on x86-64 (Discoverable Partitions Specification).
pub const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";
/// Type of the root's hash tree on x86-64.
pub const ROOT_VERITY: &str = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5";
/// Type of `/var`.
pub const VAR: &str = "4D21B016-B534-45C2-A9FB-5C16E091FD2D";

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number in the table, from 1.
    pub number: usize,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Type, in capitals.
    pub kind: String,
    /// PARTUUID, in capitals.
    pub uuid: String,
    /// Label.
    pub name: String,
}

#[derive(Deserialize)]
struct Answer {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    label: String,
    sectorsize: u64,
    partitions: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    node: String,
    start: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
    uuid: String,
    #[serde(default)]
    name: String,
}

/// Reads the table of `disk`, in the order of the disk.
///
/// # Errors
/// When it has none, or not a GPT.
pub fn partitions(tools: &Tools, disk: &Path) -> Result<Vec<Partition>> {
    let text = tools.output("sfdisk", &["--json", &disk.display().to_string()])?;
    parse(&text, disk)
}

fn parse(text: &str, disk: &Path) -> Result<Vec<Partition>> {
    let shown = disk.display();
    let Answer {
        partitiontable: table,
    } = serde_json::from_str(text).with_context(|| format!("sfdisk's answer about {shown}"))?;
    ensure!(table.label == "gpt", "{shown} has no GPT");
    let mut partitions = table
        .partitions
        .into_iter()
        .map(|entry| {
            // The node is the disk's name and the number, with a `p` between digits.
            let digits = entry.node.len()
                - entry
                    .node
                    .trim_end_matches(|c: char| c.is_ascii_digit())
                    .len();
            let number = entry.node[entry.node.len() - digits..]
                .parse()
                .with_context(|| format!("no partition number in {}", entry.node))?;
            Ok(Partition {
                number,
                start: entry.start * table.sectorsize,
                size: entry.size * table.sectorsize,
                kind: entry.kind,
                uuid: entry.uuid,
                name: entry.name,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    partitions.sort_by_key(|partition| partition.start);
    Ok(partitions)
}

/// The only partition that `wanted` accepts.
///
/// # Errors
/// When there is none, or more than one.
pub fn only(
    partitions: &[Partition],
    what: &str,
    wanted: impl Fn(&Partition) -> bool,
) -> Result<Partition> {
    let found: Vec<_> = partitions.iter().filter(|p| wanted(p)).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        _ => anyhow::bail!("{} partitions are {what}, not one", found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"partitiontable": {"label":"gpt", "id":"X", "device":"d.raw",
        "unit":"sectors", "firstlba":2048, "lastlba":9000, "sectorsize":512, "partitions": [
        {"node":"d.raw2", "start":4096, "size":8,
         "type":"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "uuid":"B", "name":"root"},
        {"node":"d.raw1", "start":2048, "size":16, "type":"C12A", "uuid":"A"}]}}"#;

    #[test]
    fn a_table_is_read_in_disk_order() {
        let all = parse(TEXT, Path::new("d.raw")).expect("a table");
        assert_eq!(
            (all[0].number, all[0].start, all[0].size),
            (1, 1 << 20, 8192)
        );
        let root = only(&all, "the root", |p| p.kind == ROOT).expect("one");
        assert_eq!((root.number, root.uuid.as_str()), (2, "B"));
        assert!(only(&all, "here", |_| true).is_err());
    }
}
