//! The partition table of a disk, read from the disk.
//!
//! Why: GRUB for BIOS needs a place: a BIOS boot partition on a GPT, or the sectors before the first partition of an
//! MBR. The kernel does not tell (it may not even scan partitions). What can go wrong: a table that is damaged or
//! hostile; every number is checked, and what makes no sense reads as no table.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::target::Table;

/// The BIOS boot partition's type, 21686148-6449-6E6F-744E-656564454649, as it lies on the disk.
const BIOS_BOOT: &[u8; 16] = b"Hah!IdontNeedEFI";
/// As many entries as sfdisk(8) makes room for, four times over.
const ENTRIES_LIMIT: u32 = 512;

/// The table of a disk; none when there is none, or it cannot be read.
pub(super) fn read(device: &Path) -> Option<Table> {
    let disk = File::open(device).ok()?;
    parse(&|offset, buffer| disk.read_exact_at(buffer, offset).is_ok())
}

/// Reads a table through `read`, which fills a buffer from an offset.
fn parse(read: &dyn Fn(u64, &mut [u8]) -> bool) -> Option<Table> {
    let mut first = [0; 512];
    if !read(0, &mut first) || first[510..] != [0x55, 0xaa] {
        return None;
    }
    let mut starts = Vec::new();
    let mut protective = false;
    for entry in first[446..510].chunks_exact(16) {
        let (status, kind, start) =
            (entry[0], entry[4], u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]));
        // A boot sector of a filesystem ends in 55 aa too; what is there is then no table.
        if status & 0x7f != 0 {
            return None;
        }
        protective |= kind == 0xee;
        if kind != 0 && start > 0 {
            starts.push(start);
        }
    }
    if protective {
        // The header is in the second sector, whatever the size of a sector.
        return [512, 4096].iter().find_map(|sector| guid(read, *sector));
    }
    let first_sector = starts.into_iter().min()?;
    Some(Table::Mbr { gap_sectors: u64::from(first_sector) - 1 })
}

fn guid(read: &dyn Fn(u64, &mut [u8]) -> bool, sector_bytes: u64) -> Option<Table> {
    let mut header = [0; 92];
    if !read(sector_bytes, &mut header) || header[..8] != *b"EFI PART" {
        return None;
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let start = u64::from(number(72)) | u64::from(number(76)) << 32;
    let (count, size) = (number(80), number(84));
    if count > ENTRIES_LIMIT || !(128..=4096).contains(&size) {
        return None;
    }
    let offset = start.checked_mul(sector_bytes)?;
    let mut kind = [0; 16];
    let bios_boot = (0..count).any(|at| {
        let place = offset.checked_add(u64::from(at) * u64::from(size));
        place.is_some_and(|place| read(place, &mut kind)) && kind == *BIOS_BOOT
    });
    Some(Table::Gpt { bios_boot })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(disk: &[u8]) -> Option<Table> {
        parse(&|offset, buffer| {
            let start = usize::try_from(offset).unwrap();
            let Some(part) = disk.get(start..start + buffer.len()) else { return false };
            buffer.copy_from_slice(part);
            true
        })
    }

    fn mbr(kind: u8, start: u32) -> Vec<u8> {
        let mut disk = vec![0; 64 * 512];
        disk[446 + 4] = kind;
        disk[446 + 8..446 + 12].copy_from_slice(&start.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    #[test]
    fn an_mbr_has_a_gap_before_its_first_partition() {
        assert_eq!(table(&mbr(0x83, 2048)), Some(Table::Mbr { gap_sectors: 2047 }));
        assert_eq!(table(&mbr(0x83, 63)), Some(Table::Mbr { gap_sectors: 62 }));
        assert_eq!(table(&mbr(0, 0)), None);
        assert_eq!(table(&[0; 1024]), None);
        assert_eq!(table(&[]), None);
    }

    #[test]
    fn a_gpt_says_whether_bios_can_boot_from_it() {
        let mut disk = mbr(0xee, 1);
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72..512 + 80].copy_from_slice(&2_u64.to_le_bytes());
        disk[512 + 80..512 + 84].copy_from_slice(&128_u32.to_le_bytes());
        disk[512 + 84..512 + 88].copy_from_slice(&128_u32.to_le_bytes());
        assert_eq!(table(&disk), Some(Table::Gpt { bios_boot: false }));
        disk[1024 + 128..1024 + 144].copy_from_slice(BIOS_BOOT);
        assert_eq!(table(&disk), Some(Table::Gpt { bios_boot: true }));
        // A count that nobody has is no table.
        disk[512 + 80..512 + 84].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(table(&disk), None);
    }
}
