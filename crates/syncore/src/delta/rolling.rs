//! The weak sum: cheap to move along a file byte by byte.
//!
//! Why: a block that moved can be anywhere, so a sum is needed for every offset. What can go wrong: it is easily made to
//! collide; it only says where a strong hash is worth the while.

/// A sum that can be rolled along the file byte by byte: Fletcher's two sums (Tridgell 1999, section 3.2), in 32 bits each
/// so that no block length makes one of them vanish.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rolling {
    a: u32,
    b: u32,
}

/// Columns that are added side by side: two rows of them fit the vector registers of every x86-64.
const COLUMNS: usize = 32;

/// Rows added before 16 bits could overflow: 255 · (1 + 2 + … + 22) is below 65536.
const ROWS: usize = 16;

impl Rolling {
    pub(super) fn of(block: &[u8]) -> Self {
        let mut sum = Self::default();
        let (tables, rest) = block.as_chunks::<{ ROWS * COLUMNS }>();
        for table in tables {
            sum.add_table(table);
        }
        for byte in rest {
            sum.a = sum.a.wrapping_add(u32::from(*byte));
            sum.b = sum.b.wrapping_add(sum.a);
        }
        sum
    }

    /// Adds many bytes at once. Adding up the running sums weighs each row by how many follow it, without a
    /// multiplication; what is left is to weigh the columns.
    fn add_table(&mut self, table: &[u8; ROWS * COLUMNS]) {
        const BYTES: u32 = 512;
        const WIDTH: u32 = 32;
        let (mut plain, mut by_row) = ([0_u16; COLUMNS], [0_u16; COLUMNS]);
        for row in table.as_chunks::<COLUMNS>().0 {
            for column in 0..COLUMNS {
                plain[column] += u16::from(row[column]);
                by_row[column] += plain[column];
            }
        }
        let (mut sum, mut rows, mut columns, mut weight) = (0_u32, 0_u32, 0_u32, 0_u32);
        for column in 0..COLUMNS {
            sum += u32::from(plain[column]);
            rows += u32::from(by_row[column]);
            columns += u32::from(plain[column]) * weight;
            weight += 1;
        }
        self.b = self.b.wrapping_add(self.a.wrapping_mul(BYTES)).wrapping_add(rows * WIDTH - columns);
        self.a = self.a.wrapping_add(sum);
    }

    /// Moves the window of `length` bytes on by one.
    pub(super) fn roll(&mut self, length: u32, out: u8, new: u8) {
        self.a = self.a.wrapping_sub(u32::from(out)).wrapping_add(u32::from(new));
        self.b = self.b.wrapping_sub(length.wrapping_mul(u32::from(out))).wrapping_add(self.a);
    }

    pub(super) fn weak(self) -> u32 {
        self.a.wrapping_add(self.b.wrapping_mul(0x9e37_79b1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bytes: &[u8]) -> u32 {
        let (mut a, mut b) = (0_u32, 0_u32);
        for byte in bytes {
            a = a.wrapping_add(u32::from(*byte));
            b = b.wrapping_add(a);
        }
        Rolling { a, b }.weak()
    }

    #[test]
    fn adding_many_at_once_equals_adding_one_by_one() {
        let data: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in [0, 1, 511, 512, 513, 4096, 65_536, 70_000] {
            assert_eq!(Rolling::of(&data[..length]).weak(), naive(&data[..length]), "{length}");
            assert_eq!(Rolling::of(&vec![255; length]).weak(), naive(&vec![255; length]), "{length} highest");
        }
    }

    #[test]
    fn rolling_equals_summing_afresh() {
        let data: Vec<u8> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut rolling = Rolling::of(&data[..1000]);
        for start in 1..4000 {
            rolling.roll(1000, data[start - 1], data[start + 999]);
            assert_eq!(rolling.weak(), Rolling::of(&data[start..start + 1000]).weak());
        }
    }
}
