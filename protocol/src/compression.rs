//! The codecs of record batches: gzip, snappy, lz4, zstd.
//!
//! Invariant: decompression stops at the limit it is given, whatever the input claims. Snappy is written with Xerial's
//! framing, as Java clients do, and read with or without it.

use std::io::{self, Read, Write};

/// A batch's codec; the number is in the low three bits of the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    pub fn id(self) -> i16 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    pub fn from_id(id: i16) -> Option<Self> {
        Compression::ALL.into_iter().find(|c| c.id() == id)
    }

    /// Kafka's name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// Why bytes cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    #[error("more than {limit_bytes} bytes come out")]
    TooLarge { limit_bytes: usize },
    #[error("the compressed bytes are not well formed: {0}")]
    Malformed(String),
}

/// The largest output a caller takes, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct DecompressLimit(pub usize);

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Uncompressed bytes of one Xerial block.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// Compresses `input`.
pub fn compress(codec: Compression, input: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(input)?;
            encoder.finish()
        }
        Compression::Snappy => {
            let mut out = XERIAL_MAGIC.to_vec();
            out.extend(1i32.to_be_bytes());
            out.extend(1i32.to_be_bytes());
            let mut encoder = snap::raw::Encoder::new();
            for block in input.chunks(XERIAL_BLOCK_BYTES) {
                let packed = encoder.compress_vec(block).map_err(io::Error::other)?;
                out.extend((packed.len() as u32).to_be_bytes());
                out.extend(packed);
            }
            Ok(out)
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(input)?;
            encoder.finish().map_err(io::Error::other)
        }
        Compression::Zstd => zstd::stream::encode_all(input, zstd::DEFAULT_COMPRESSION_LEVEL),
    }
}

/// Decompresses `input`.
pub fn decompress(codec: Compression, input: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, DecompressError> {
    match codec {
        Compression::None if input.len() > limit.0 => Err(DecompressError::TooLarge { limit_bytes: limit.0 }),
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => read_limited(flate2::read::MultiGzDecoder::new(input), limit),
        Compression::Snappy => decompress_snappy(input, limit),
        Compression::Lz4 => read_limited(lz4_flex::frame::FrameDecoder::new(input), limit),
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(input).map_err(|e| malformed(&e))?;
            read_limited(decoder, limit)
        }
    }
}

fn malformed(error: &dyn std::error::Error) -> DecompressError {
    DecompressError::Malformed(error.to_string())
}

fn read_limited(reader: impl Read, limit: DecompressLimit) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    reader.take(limit.0 as u64 + 1).read_to_end(&mut out).map_err(|e| malformed(&e))?;
    if out.len() > limit.0 {
        return Err(DecompressError::TooLarge { limit_bytes: limit.0 });
    }
    Ok(out)
}

fn decompress_snappy(input: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    if !input.starts_with(XERIAL_MAGIC) {
        snappy_block(input, &mut out, limit)?;
        return Ok(out);
    }
    let mut rest = input.get(16..).ok_or_else(|| DecompressError::Malformed("no Xerial header".to_owned()))?;
    while !rest.is_empty() {
        let block = rest.split_first_chunk::<4>().and_then(|(length, behind)| {
            let length = u32::from_be_bytes(*length) as usize;
            (length <= behind.len()).then(|| behind.split_at(length))
        });
        let Some((block, behind)) = block else {
            return Err(DecompressError::Malformed("a Xerial block is cut off".to_owned()));
        };
        snappy_block(block, &mut out, limit)?;
        rest = behind;
    }
    Ok(out)
}

fn snappy_block(block: &[u8], out: &mut Vec<u8>, limit: DecompressLimit) -> Result<(), DecompressError> {
    let length = snap::raw::decompress_len(block).map_err(|e| malformed(&e))?;
    let too_large = DecompressError::TooLarge { limit_bytes: limit.0 };
    if out.len().saturating_add(length) > limit.0 {
        return Err(too_large);
    }
    // A block of n bytes cannot hold more than 32 n: a claim beyond it is a lie, and nothing is reserved for it.
    if length > block.len().saturating_mul(32) + 64 {
        return Err(DecompressError::Malformed("a block claims more than it can hold".to_owned()));
    }
    let at = out.len();
    out.resize(at + length, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[at..]).map_err(|e| malformed(&e))?;
    out.truncate(at + written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_got_and_keeps_its_limit() {
        let input: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) / 7) as u8).collect();
        for codec in Compression::ALL {
            let packed = compress(codec, &input).unwrap();
            let back = decompress(codec, &packed, DecompressLimit(input.len())).unwrap();
            assert_eq!(back, input, "{codec:?}");
            let error = decompress(codec, &packed, DecompressLimit(input.len() - 1)).unwrap_err();
            assert!(matches!(error, DecompressError::TooLarge { .. }), "{codec:?}: {error}");
            if codec != Compression::None {
                assert!(decompress(codec, &packed[..packed.len() / 2], DecompressLimit(1 << 20)).is_err(), "{codec:?}");
            }
        }
    }

    #[test]
    fn snappy_without_framing_is_read() {
        let packed = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
        let back = decompress(Compression::Snappy, &packed, DecompressLimit(100)).unwrap();
        assert_eq!(back, b"hello hello hello");
    }
}
