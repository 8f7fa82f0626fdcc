//! Fashion-MNIST from Debian's `dataset-fashion-mnist`.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;

/// Names of the ten classes as the dataset numbers them, each one spoken word.
pub const CLASSES: [&str; 10] =
    ["tee", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"];

/// Side of a tile in pixels.
pub const SIDE: usize = 28;

/// Grey tiles by class, in file order.
pub struct Tiles {
    /// `by_class[c][i]` holds `SIDE * SIDE` bytes.
    pub by_class: Vec<Vec<Vec<u8>>>,
}

/// The first `per_class` tiles of each class; `split` is `train` or `t10k`.
pub fn read(folder: &Path, split: &str, per_class: usize) -> Result<Tiles> {
    let pixels = unzip(&folder.join(format!("{split}-images-idx3-ubyte.gz")))?;
    let labels = unzip(&folder.join(format!("{split}-labels-idx1-ubyte.gz")))?;
    let (pixels, labels) = (&pixels[16..], &labels[8..]);
    ensure!(pixels.len() == labels.len() * SIDE * SIDE, "{split}: pixels and labels disagree in number");
    let mut by_class = vec![Vec::new(); CLASSES.len()];
    for (tile, &label) in pixels.chunks(SIDE * SIDE).zip(labels) {
        let class: &mut Vec<Vec<u8>> = &mut by_class[usize::from(label)];
        if class.len() < per_class {
            class.push(tile.to_vec());
        }
    }
    ensure!(
        by_class.iter().all(|class| class.len() == per_class),
        "{split}: fewer than {per_class} tiles a class"
    );
    Ok(Tiles { by_class })
}

fn unzip(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path)
        .with_context(|| format!("{}: install the Debian package dataset-fashion-mnist", path.display()))?;
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    Ok(bytes)
}

/// A tile as a grey PNG.
pub fn png(tile: &[u8]) -> Result<Vec<u8>> {
    use image::{ExtendedColorType, ImageEncoder, codecs::png};
    let mut bytes = Vec::new();
    let encoder =
        png::PngEncoder::new_with_quality(&mut bytes, png::CompressionType::Best, png::FilterType::Adaptive);
    encoder.write_image(tile, SIDE as u32, SIDE as u32, ExtendedColorType::L8)?;
    Ok(bytes)
}
