use super::*;
use proptest::prelude::*;
use ring::digest::{SHA256, digest};

#[derive(Clone, Debug)]
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl FileExt for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap();
        let rest = self.0.get(offset..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unreachable!("nothing is written")
    }
}

/// A tree, made in another way than it is verified: recursively, each level whole, from the bottom up.
pub(crate) fn tree(data: &[u8], block: usize, salt: &[u8]) -> (Vec<u8>, [u8; 32]) {
    fn level(bytes: &[u8], block: usize, salt: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let hashes: Vec<Vec<u8>> = bytes
            .chunks(block)
            .map(|chunk| digest(&SHA256, &[salt, chunk].concat()).as_ref().to_vec())
            .collect();
        if let [one] = hashes.as_slice() {
            return (Vec::new(), one.as_slice().try_into().unwrap());
        }
        let mut this = hashes.concat();
        this.resize(this.len().next_multiple_of(block), 0);
        let (above, root) = level(&this, block, salt);
        ([above, this].concat(), root)
    }
    assert_eq!(data.len() % block, 0);
    let mut superblock = vec![0; block];
    superblock[..8].copy_from_slice(b"verity\0\0");
    superblock[8] = 1;
    superblock[12] = 1;
    superblock[32..38].copy_from_slice(b"sha256");
    let size = u32::try_from(block).unwrap().to_le_bytes();
    superblock[64..68].copy_from_slice(&size);
    superblock[68..72].copy_from_slice(&size);
    superblock[72..80].copy_from_slice(&((data.len() / block) as u64).to_le_bytes());
    superblock[80] = u8::try_from(salt.len()).unwrap();
    superblock[88..88 + salt.len()].copy_from_slice(salt);
    let (levels, root) = level(data, block, salt);
    ([superblock, levels].concat(), root)
}

fn check(data: &[u8], tree: &[u8], root: &[u8; 32]) -> Result<(), String> {
    let pair = Pair {
        data: &Memory(data.to_vec()),
        data_name: "vda4",
        data_size: data.len() as u64,
        tree: &Memory(tree.to_vec()),
        tree_name: "vda5",
    };
    verify(&pair, root)
}

fn data(blocks: usize, block: usize) -> Vec<u8> {
    (0..blocks * block)
        .map(|i| (i * 7 + i / 509).to_le_bytes()[0])
        .collect()
}

/// `veritysetup format --data-block-size 512 --hash-block-size 512 --salt aabb` of cryptsetup 2.7.5
/// over 300 blocks of [`data`]: two levels below the top, the lowest of 19 blocks.
#[test]
fn the_tree_of_veritysetup_is_proven() {
    let data = data(300, 512);
    let theirs = include_bytes!("veritysetup-512.tree");
    let root = "0a1ab5039b99a494a28a198b2675063170e60de46cdab7243f640ba03ad3d3ba";
    let root = Digest::parse(root).unwrap().0;
    assert_eq!(check(&data, theirs, &root), Ok(()));
    let (ours, our_root) = tree(&data, 512, &[0xaa, 0xbb]);
    assert_eq!(our_root, root);
    assert_eq!(ours[512..], theirs[512..]);
}

#[test]
fn trees_of_any_height_are_proven_and_errors_name_the_block() {
    for (blocks, block) in [
        (1, 4096),
        (2, 4096),
        (128, 4096),
        (129, 4096),
        (16, 512),
        (257, 512),
        (4097, 512),
    ] {
        let data = data(blocks, block);
        let (mut hashes, root) = tree(&data, block, b"salt");
        assert_eq!(check(&data, &hashes, &root), Ok(()), "{blocks} of {block}");
        assert!(check(&data, &hashes, &[0; 32]).is_err());
        let mut wrong = data.clone();
        *wrong.last_mut().unwrap() ^= 1;
        let error = check(&wrong, &hashes, &root).unwrap_err();
        let say = format!("vda4: block {} is not", blocks - 1);
        assert!(error.contains(&say), "{error}");
        if blocks > 1 {
            *hashes.last_mut().unwrap() ^= 1;
            let error = check(&data, &hashes, &root).unwrap_err();
            let say = format!("vda5: block {} is not", hashes.len() / block - 1);
            assert!(error.contains(&say), "{error}");
        }
    }
}

#[test]
fn what_is_cut_off_is_told_with_the_block() {
    let data = data(40, 512);
    let (hashes, root) = tree(&data, 512, b"");
    let short = check(&data, &hashes[..hashes.len() - 1], &root).unwrap_err();
    assert!(short.contains("vda5: block"), "{short}");
    assert!(
        check(&data, &[], &root)
            .unwrap_err()
            .contains("no superblock")
    );
    assert!(
        check(&data[512..], &hashes, &root)
            .unwrap_err()
            .contains("do not fit")
    );
    let pair = Pair {
        data: &Memory(data[512..].to_vec()),
        data_name: "vda4",
        data_size: data.len() as u64,
        tree: &Memory(hashes),
        tree_name: "vda5",
    };
    assert!(verify(&pair, &root).unwrap_err().contains("vda4: block"));
}

proptest! {
    #[test]
    fn any_flipped_bit_is_found(
        blocks in 1usize..300, salt in proptest::collection::vec(any::<u8>(), 0..20),
        at in any::<proptest::sample::Index>(), bit in 0u8..8, in_data in any::<bool>(),
    ) {
        let mut data = data(blocks, 512);
        let (mut hashes, root) = tree(&data, 512, &salt);
        prop_assert_eq!(check(&data, &hashes, &root), Ok(()));
        if in_data || blocks == 1 {
            let at = at.index(data.len());
            data[at] ^= 1 << bit;
        } else {
            let at = 512 + at.index(hashes.len() - 512);
            hashes[at] ^= 1 << bit;
        }
        prop_assert!(check(&data, &hashes, &root).is_err());
    }

    #[test]
    fn any_superblock_is_survived(at in 0usize..512, value in any::<u8>()) {
        let data = data(20, 512);
        let (mut hashes, root) = tree(&data, 512, b"salt");
        hashes[at] = value;
        let _ = check(&data, &hashes, &root);
    }
}
