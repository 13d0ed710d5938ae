//! Entropy-coded data: bits, Huffman codes, and the coefficients of a block.
//!
//! Damaged data are taken as libjpeg takes them: a code that is in no table stands for zero, and
//! where a segment ends early the rest of it is empty.

use super::Problem;

/// Order in which coefficients are stored, as positions in a row-major block.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Coefficients of a block, row-major.
pub(super) type Block = [i16; 64];

/// Position of coefficient `k`; those that damaged data count past the end are the last.
fn position(k: usize) -> usize {
    usize::from(ZIGZAG[k.min(63)])
}

/// Codes of up to this length are looked up at once.
const LOOKUP: u32 = 9;

/// A Huffman table.
pub(super) struct Huffman {
    /// Length and symbol by the next bits, or zero where the code is longer.
    short: [u16; 1 << LOOKUP],
    /// By length: the largest code, or -1; and what leads from a code to the place of its symbol.
    long: [(i32, i32); 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// The table of `counts[i]` codes of `i + 1` bits.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, Problem> {
        let mut table = Self {
            short: [0; 1 << LOOKUP],
            long: [(-1, 0); 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0, 0);
        for (length, &count) in (1..).zip(counts) {
            for _ in 0..count {
                let Some(&symbol) = symbols.get(place) else {
                    return Err(Problem::damaged("a Huffman table lacks symbols"));
                };
                if length <= LOOKUP {
                    let spare = LOOKUP - length;
                    let entry = (length as u16) << 8 | u16::from(symbol);
                    // A code too long for its bits is found below.
                    let (from, to) = ((code as usize) << spare, (code as usize + 1) << spare);
                    if let Some(entries) = table.short.get_mut(from..to) {
                        entries.fill(entry);
                    }
                }
                code += 1;
                place += 1;
            }
            if code > 1 << length {
                return Err(Problem::damaged("a Huffman table has too many codes"));
            }
            if count > 0 {
                table.long[length as usize] = (code - 1, place as i32 - code);
            }
            code <<= 1;
        }
        Ok(table)
    }

    /// Whether the symbols can be sizes of differences between DC coefficients.
    pub(super) fn is_dc(&self) -> bool {
        self.symbols.iter().all(|&symbol| symbol <= 15)
    }
}

/// Bits of a scan.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// Bits to come, the first at the top.
    buffer: u64,
    count: u32,
    /// How many bits at the end of the buffer, or consumed, are made up.
    padding: u32,
    empty: bool,
}

impl<'a> Bits<'a> {
    /// The bits of `data` from `at` to the next marker.
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self {
            data,
            at,
            buffer: 0,
            count: 0,
            padding: 0,
            empty: false,
        }
    }

    /// Where to look for the marker that ends the scan.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Whether bits were asked for that there are not, since the last restart.
    pub(super) fn empty(&mut self) -> bool {
        self.empty |= self.padding > self.count;
        self.empty
    }

    /// Makes sure of 33 bits at least: the longest code and its value.
    #[inline]
    fn fill(&mut self) {
        if self.count > 32 {
            return;
        }
        if let Some(bytes) = self.data[self.at..].first_chunk::<8>() {
            let word = u64::from_be_bytes(*bytes);
            // Whether a byte is 0xFF: whether one of the complement is zero.
            let zeros = !word;
            let low = 0x0101_0101_0101_0101;
            if zeros.wrapping_sub(low) & !zeros & (low << 7) == 0 {
                // Bits beyond whole bytes come again next time, and are the same.
                self.buffer |= word >> self.count;
                self.at += ((63 - self.count) / 8) as usize;
                self.count |= 56;
                return;
            }
        }
        self.fill_bytes();
    }

    #[cold]
    fn fill_bytes(&mut self) {
        while self.count <= 56 {
            match self.byte() {
                Some(byte) => self.buffer |= u64::from(byte) << (56 - self.count),
                None => self.padding += 8,
            }
            self.count += 8;
        }
    }

    /// The next byte, without the zero that follows 0xFF in data; none before a marker.
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.data.get(self.at)?;
        if byte != 0xff {
            self.at += 1;
            return Some(byte);
        }
        let fill = self.data[self.at..].iter().position(|&byte| byte != 0xff);
        let after = self.at + fill?;
        if self.data[after] != 0 {
            return None;
        }
        self.at = after + 1;
        Some(0xff)
    }

    /// The next `count` bits, of 1 to 16, which must be there.
    #[inline]
    fn take(&mut self, count: u32) -> i32 {
        let value = (self.buffer >> (64 - count)) as i32;
        self.buffer <<= count;
        self.count -= count;
        value
    }

    /// The next `count` bits, of 0 to 15.
    fn bits(&mut self, count: u32) -> i32 {
        if count == 0 {
            return 0;
        }
        self.fill();
        self.take(count)
    }

    #[inline]
    fn bit(&mut self) -> bool {
        if self.count == 0 {
            self.fill();
        }
        self.take(1) != 0
    }

    /// The next symbol; leaves bits for its value.
    #[inline]
    fn symbol(&mut self, table: &Huffman) -> u8 {
        self.fill();
        let entry = table.short[(self.buffer >> (64 - LOOKUP)) as usize];
        if entry != 0 {
            self.take(u32::from(entry >> 8));
            return entry as u8;
        }
        for length in LOOKUP + 1..=16 {
            let code = (self.buffer >> (64 - length)) as i32;
            let (largest, offset) = table.long[length as usize];
            if code <= largest {
                self.take(length);
                let symbol = table.symbols.get((code + offset) as usize);
                return symbol.copied().unwrap_or(0);
            }
        }
        self.take(17);
        0
    }

    /// The value of a symbol that says its number of bits, of 0 to 15.
    #[inline]
    fn value(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        let value = self.take(bits);
        if value < 1 << (bits - 1) {
            value - (1 << bits) + 1
        } else {
            value
        }
    }

    /// Goes on behind restart marker number `expected`.
    ///
    /// Where another marker is found, T.81 leaves open what to do. As in libjpeg, a restart marker
    /// that was just due is passed over, and one that is due soon, or any other marker, is left for
    /// later: what lies before it is lost.
    pub(super) fn restart(&mut self, expected: u8) {
        self.empty |= self.padding > self.count;
        (self.buffer, self.count, self.padding) = (0, 0, 0);
        while let Some((marker, after)) = next_marker(self.data, self.at) {
            let ahead = marker.wrapping_sub(0xd0 + expected) & 7;
            match marker {
                0xd0..=0xd7 if matches!(ahead, 1 | 2) => {
                    self.at = after - 2;
                    return;
                }
                0xd0..=0xd7 if matches!(ahead, 6 | 7) => self.at = after,
                0xd0..=0xd7 => {
                    self.at = after;
                    self.empty = false;
                    return;
                }
                0xc0.. => {
                    self.at = after - 2;
                    return;
                }
                _ => self.at = after,
            }
        }
        self.at = self.data.len();
    }
}

/// The next marker from `at` on and the place behind it. Anything in between is passed over.
pub(super) fn next_marker(data: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += data.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        at += data[at..].iter().position(|&byte| byte != 0xff)?;
        if data[at] != 0 {
            return Some((data[at], at + 1));
        }
    }
}

/// What one scan of a progressive image brings.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    /// First and last coefficient.
    pub(super) band: [usize; 2],
    /// Whether another scan brought the bits above.
    pub(super) refines: bool,
    /// The lowest bit that this scan brings.
    pub(super) bit: u32,
}

impl Bits<'_> {
    /// The whole of a block in sequential coding. `block` is zero before. Returns whether any
    /// coefficient but the first is there.
    pub(super) fn sequential(
        &mut self,
        dc: &Huffman,
        ac: &Huffman,
        last_dc: &mut i32,
        block: &mut Block,
    ) -> bool {
        let size = self.symbol(dc);
        *last_dc = last_dc.wrapping_add(self.value(u32::from(size)));
        block[0] = *last_dc as i16;
        let mut any = false;
        let mut k = 1;
        while k < 64 {
            let symbol = self.symbol(ac);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size != 0 {
                k += run;
                block[position(k)] = self.value(size) as i16;
                any = true;
                k += 1;
            } else if run == 15 {
                k += 16;
            } else {
                break;
            }
        }
        any
    }

    /// The upper bits of a DC coefficient.
    pub(super) fn dc_first(
        &mut self,
        table: &Huffman,
        bit: u32,
        last_dc: &mut i32,
        block: &mut Block,
    ) {
        let size = self.symbol(table);
        *last_dc = last_dc.wrapping_add(self.value(u32::from(size)));
        block[0] = (*last_dc << bit) as i16;
    }

    /// One more bit of a DC coefficient.
    pub(super) fn dc_refined(&mut self, bit: u32, block: &mut Block) {
        if self.bit() {
            block[0] |= 1 << bit;
        }
    }

    /// The upper bits of a band. `ended` counts blocks to come whose bands are over.
    pub(super) fn ac_first(
        &mut self,
        table: &Huffman,
        progress: Progress,
        ended: &mut u32,
        block: &mut Block,
    ) {
        if *ended > 0 {
            *ended -= 1;
            return;
        }
        let [mut k, last] = progress.band;
        while k <= last {
            let symbol = self.symbol(table);
            let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            if size != 0 {
                k += run as usize;
                block[position(k)] = (self.value(size) << progress.bit) as i16;
                k += 1;
            } else if run == 15 {
                k += 16;
            } else {
                *ended = (1 << run) - 1 + self.bits(run) as u32;
                break;
            }
        }
    }

    /// One more bit of a band: of coefficients that are there, and new ones of that bit alone.
    pub(super) fn ac_refined(
        &mut self,
        table: &Huffman,
        progress: Progress,
        ended: &mut u32,
        block: &mut Block,
    ) {
        let one = 1i16 << progress.bit;
        let [mut k, last] = progress.band;
        while *ended == 0 && k <= last {
            let symbol = self.symbol(table);
            let (mut run, size) = (u32::from(symbol >> 4), symbol & 15);
            let mut new = 0;
            if size != 0 {
                new = if self.bit() { one } else { -one };
            } else if run != 15 {
                *ended = (1 << run) + self.bits(run) as u32;
                break;
            }
            // Past coefficients that are there, and as many zeros as the run says.
            while k <= last {
                let coefficient = &mut block[position(k)];
                if *coefficient != 0 {
                    self.refine(coefficient, one);
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if new != 0 {
                block[position(k)] = new;
            }
            k += 1;
        }
        if *ended > 0 {
            for k in k..=last {
                let coefficient = &mut block[position(k)];
                if *coefficient != 0 {
                    self.refine(coefficient, one);
                }
            }
            *ended -= 1;
        }
    }

    #[inline]
    fn refine(&mut self, coefficient: &mut i16, one: i16) {
        if self.bit() && *coefficient & one == 0 {
            let away = if *coefficient < 0 { -one } else { one };
            *coefficient = coefficient.wrapping_add(away);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0, 10, 110 and 1110000000000.
    fn table() -> Huffman {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2], counts[12]) = (1, 1, 1, 1);
        Huffman::new(&counts, &[5, 6, 7, 8]).unwrap()
    }

    #[test]
    fn codes_shorter_and_longer_than_the_lookup() {
        let data = [0b1001_1011, 0b1000_0000, 0b0000_0000];
        let mut bits = Bits::new(&data, 0);
        let found: Vec<u8> = (0..4).map(|_| bits.symbol(&table())).collect();
        assert_eq!(found, [6, 5, 7, 8]);
        for _ in 0..5 {
            assert_eq!(bits.symbol(&table()), 5);
        }
        assert!(!bits.empty());
        assert_eq!(bits.symbol(&table()), 5);
        assert!(bits.empty());
    }

    #[test]
    fn a_code_in_no_table_is_zero() {
        let data = [0xff, 0, 0xff, 0, 0x80, 0];
        let mut bits = Bits::new(&data, 0);
        assert_eq!(bits.symbol(&table()), 0);
        assert_eq!(bits.symbol(&table()), 5);
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Huffman::new(&counts, &[1, 2, 3]).is_err());
        counts[0] = 2;
        assert!(Huffman::new(&counts, &[1]).is_err());
        assert!(Huffman::new(&counts, &[1, 2]).unwrap().is_dc());
        assert!(!Huffman::new(&counts, &[1, 16]).unwrap().is_dc());
    }

    #[test]
    fn values_are_signed_by_their_first_bit() {
        let mut bits = Bits::new(&[0b0001_1110, 0], 0);
        bits.fill();
        let found: Vec<i32> = [3, 3, 2].map(|size| bits.value(size)).to_vec();
        assert_eq!(found, [-7, 7, 2]);
        assert_eq!(bits.value(0), 0);
    }

    #[test]
    fn restarts_are_found_again() {
        let read = |data: &[u8], expected| {
            let mut bits = Bits::new(data, 0);
            bits.restart(expected);
            let byte = bits.bits(8);
            (byte, bits.empty())
        };
        // Where it belongs, behind rubbish, and behind one that was due before.
        assert_eq!(read(&[0xff, 0xd3, 0x55], 3), (0x55, false));
        assert_eq!(
            read(&[0x12, 0xff, 0, 0xff, 0xff, 0xd3, 0x55], 3),
            (0x55, false)
        );
        assert_eq!(
            read(&[0xff, 0xd2, 0x12, 0xff, 0xd3, 0x55], 3),
            (0x55, false)
        );
        // The next one is already there, or the end.
        assert_eq!(read(&[0x12, 0xff, 0xd4, 0x55], 3), (0, true));
        assert_eq!(read(&[0xff, 0xd9, 0x55], 3), (0, true));
        assert_eq!(read(&[0x55, 0x55], 3), (0, true));
    }
}
