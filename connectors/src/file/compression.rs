//! Compressed files, told by their ending.

use std::io::{BufReader, Read};

use tidemark_common::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// The compression of a file and its name without that ending.
    pub fn of(name: &str) -> (Self, &str) {
        for (ending, compression) in
            [(".gz", Self::Gzip), (".zst", Self::Zstd), (".zstd", Self::Zstd), (".bz2", Self::Bzip2), (".xz", Self::Xz)]
        {
            let cut = name.len().saturating_sub(ending.len());
            if name.is_char_boundary(cut) && name[cut..].eq_ignore_ascii_case(ending) {
                return (compression, &name[..cut]);
            }
        }
        (Self::None, name)
    }

    /// Files made of several compressed members one after the other are read whole.
    pub fn decompress(self, input: impl Read + Send + 'static) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(input))),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(input)),
            Self::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(input)),
        })
    }
}
