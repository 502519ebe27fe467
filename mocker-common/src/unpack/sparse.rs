//! Sparse files in a tar: a map says where the stored bytes belong; what it leaves out are holes.
//!
//! Four layouts exist: the old GNU header (type `S`, blocks of 21 pieces behind it) and three in PAX records (0.0: a
//! record a number; 0.1: one list; 1.0: the map as lines in front of the data). Holes stay holes: written out, one
//! kilobyte of tar could fill a disk. Source: GNU tar manual, "Storing Sparse Files".

use super::member::number;

/// A run of bytes that the tar holds; between runs the file has holes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    pub offset: u64,
    pub length: u64,
}

/// More pieces than this make no file; they would only fill memory.
pub const MAX_PIECES: usize = 1 << 20;

/// The `GNU.sparse.*` records of one PAX header.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub major: Option<u64>,
    pub name: Option<Vec<u8>>,
    /// `GNU.sparse.size` (0.x) or `GNU.sparse.realsize` (1.0): the size with holes.
    pub real_size: Option<u64>,
    /// The numbers of a 0.x map: offset, length, offset, length …
    numbers: Vec<u64>,
}

impl Records {
    /// Takes in one record, its key without the prefix `GNU.sparse.`.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let decimal = || decimal(value).ok_or("a GNU.sparse record is not a number");
        match key {
            b"major" => self.major = Some(decimal()?),
            b"size" | b"realsize" => self.real_size = Some(decimal()?),
            b"name" => self.name = Some(value.to_vec()),
            b"offset" | b"numbytes" => {
                let expected = if self.numbers.len().is_multiple_of(2) { &b"offset"[..] } else { b"numbytes" };
                if key != expected {
                    return Err("GNU.sparse.offset and numbytes do not alternate");
                }
                self.numbers.push(decimal()?);
            }
            b"map" => {
                self.numbers = value
                    .split(|byte| *byte == b',')
                    .filter(|text| !text.is_empty())
                    .map(|text| self::decimal(text).ok_or("GNU.sparse.map holds something that is not a number"))
                    .collect::<Result<_, _>>()?;
            }
            _ => {} // minor is 0 in all of them, numblocks follows from the map
        }
        Ok(())
    }

    /// Whether these records make the file sparse at all.
    pub fn any(&self) -> bool {
        self.major.is_some() || !self.numbers.is_empty() || self.real_size.is_some()
    }

    /// The map of layouts 0.0 and 0.1.
    pub fn pieces(&self) -> Result<Vec<Piece>, &'static str> {
        pairs(&self.numbers)
    }
}

/// Reads a run of decimal digits; nothing else, and no overflow.
pub fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Piece>, &'static str> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    match rest {
        [] => Ok(pairs.iter().map(|&[offset, length]| Piece { offset, length }).collect()),
        _ => Err("a sparse map ends in the middle of a pair"),
    }
}

/// The pieces of an old GNU header or of one of its extension blocks: 24 bytes each, unused ones empty.
pub fn old_gnu(table: &[u8], pieces: &mut Vec<Piece>) -> Result<(), &'static str> {
    for entry in table.chunks_exact(24) {
        let (offset, length) = entry.split_at(12);
        if offset[0] == 0 || length[0] == 0 {
            continue;
        }
        let read = |field| number(field).and_then(|n| u64::try_from(n).ok()).ok_or("a sparse map entry is no number");
        pieces.push(Piece { offset: read(offset)?, length: read(length)? });
    }
    Ok(())
}

/// The map of layout 1.0, block by block: the count, then offset and length of each, a decimal a line.
#[derive(Default)]
pub struct Preamble {
    count: Option<u64>,
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl Preamble {
    /// Takes in the next block; what follows the last number in it is padding. Returns whether the map is complete.
    pub fn take(&mut self, block: &[u8]) -> Result<bool, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err("the sparse map in front of the data is not made of numbers");
                }
                continue;
            }
            let number = decimal(&self.line).ok_or("the sparse map in front of the data is not made of numbers")?;
            self.line.clear();
            match self.count {
                None if number > MAX_PIECES as u64 => return Err("its sparse map has too many pieces"),
                None => self.count = Some(number),
                Some(_) => self.numbers.push(number),
            }
            if self.count.is_some_and(|count| self.numbers.len() as u64 == 2 * count) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub fn pieces(&self) -> Result<Vec<Piece>, &'static str> {
        pairs(&self.numbers)
    }
}

/// Refuses a map that overlaps, runs backwards, leaves the file or does not match the bytes that are stored.
pub fn check(pieces: &[Piece], stored: u64, real: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0u64, 0u64);
    for piece in pieces {
        if piece.offset < end {
            return Err("its sparse map overlaps or runs backwards");
        }
        end = piece.offset.checked_add(piece.length).ok_or("its sparse map leaves the file")?;
        sum += piece.length; // cannot overflow: pieces do not overlap
    }
    match () {
        _ if pieces.len() > MAX_PIECES => Err("its sparse map has too many pieces"),
        _ if end > real => Err("its sparse map leaves the file"),
        _ if sum != stored => Err("its sparse map does not match the bytes that are stored"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_ascend_and_fit() {
        let map = |list: &[(u64, u64)]| -> Vec<Piece> {
            list.iter().map(|&(offset, length)| Piece { offset, length }).collect()
        };
        assert_eq!(check(&map(&[]), 0, 1 << 40), Ok(()));
        assert_eq!(check(&map(&[(0, 5), (10, 5), (20, 0)]), 10, 20), Ok(()));
        for (bad, stored, real) in [
            (&[(0u64, 5u64), (4, 5)][..], 10u64, 20u64),
            (&[(10, 5), (0, 5)], 10, 20),
            (&[(0, 5)], 5, 4),
            (&[(0, 5)], 6, 20),
            (&[(u64::MAX, 2)], 2, u64::MAX),
        ] {
            assert!(check(&map(bad), stored, real).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_preamble_may_be_cut_anywhere() {
        let text = b"2\n0\n512\n4096\n10\n\0\0";
        for cut in 0..text.len() {
            let mut preamble = Preamble::default();
            let done = preamble.take(&text[..cut]).unwrap() || preamble.take(&text[cut..]).unwrap();
            assert!(done);
            assert_eq!(preamble.pieces().unwrap()[1], Piece { offset: 4096, length: 10 });
        }
        assert!(Preamble::default().take(b"x\n").is_err());
        assert!(Preamble::default().take(b"99999999\n").is_err());
        assert!(Preamble::default().take(&[b'1'; 512]).is_err());
    }
}
