//! The `spoken-count` task: Fashion-MNIST tiles and a spoken garment name.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    archive, fashion,
    questions::{Row, Split},
    speech, vocabulary,
};

const TRAIN_TILES: usize = 400;
/// Of the pictures that Fashion-MNIST has for training, those after the training tiles: settings are chosen on them.
const VALIDATION_TILES: usize = 100;
const TEST_TILES: usize = 100;
const FOUR: &[&[usize]] = &[&[2, 1, 1], &[3, 1]];
const SIX: &[&[usize]] = &[&[3, 2, 1]];

/// Name of the split on which settings are chosen.
const VALIDATION: &str = "val";

/// Where the archive lies in the repository.
const ARCHIVE: &str = "crates/kyoka/assets/spoken-count.tar.gz";

const NOTICE: &str = "\
Pictures: Fashion-MNIST, copyright 2017 Zalando SE, MIT licence, from the Debian package dataset-fashion-mnist.
Sounds: spoken by espeak-ng (Debian package), which claims no rights in its output.
Questions: made by `cargo xtask data spoken-count`, MIT OR Apache-2.0.
";

/// Makes the archive again.
pub fn make(root: &Path, fashion_folder: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    files.insert("NOTICE".to_owned(), NOTICE.as_bytes().to_vec());
    for (split, folder, first, per_class) in [
        ("train", "train", 0, TRAIN_TILES),
        ("train", "val", TRAIN_TILES, VALIDATION_TILES),
        ("t10k", "test", 0, TEST_TILES),
    ] {
        let tiles = fashion::read(fashion_folder, split, first + per_class)?;
        for (class, tiles) in fashion::CLASSES.iter().zip(&tiles.by_class) {
            for (number, tile) in tiles[first..].iter().enumerate() {
                files.insert(format!("images/{folder}/{class}/{number:03}.png"), fashion::png(tile)?);
            }
        }
    }
    add_clips(&mut files)?;
    let mut texts = Vec::new();
    for (seed, split) in splits().iter().enumerate() {
        let rows = split.rows(&mut ChaCha8Rng::seed_from_u64(seed as u64));
        // The words of the validation rows are those of the others: the vocabulary stays what it was without them.
        let new_words = if split.name == VALIDATION { &[][..] } else { &rows[..] };
        texts.extend(new_words.iter().flat_map(|row| row.completion.clone()));
        texts
            .extend(new_words.iter().map(|row| row.prompt.rsplit('>').next().unwrap_or_default().to_owned()));
        files.insert(format!("{}.jsonl", split.name), jsonl(&rows)?);
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    files.insert("tokenizer.json".to_owned(), vocabulary::train(&texts)?.into_bytes());

    let packed = archive::pack(&files)?;
    let path = root.join(ARCHIVE);
    std::fs::create_dir_all(path.parent().context("the archive has a folder")?)?;
    std::fs::write(&path, &packed).with_context(|| path.display().to_string())?;
    println!("{}: {} files, {:.2} MB", path.display(), files.len(), packed.len() as f64 / 1e6);
    Ok(())
}

fn add_clips(files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1_000);
    for word in fashion::CLASSES {
        for (number, voice) in speech::TRAINING.iter().enumerate() {
            let clip = speech::wav(&speech::speak(word, voice)?)?;
            files.insert(format!("audios/train/{word}-{number:02}.wav"), clip);
        }
        for (number, voice) in speech::HELD_OUT.iter().enumerate() {
            let noisy = speech::add_noise(&speech::speak(word, voice)?, 15.0, &mut rng);
            files.insert(format!("audios/held_out/{word}-{number:02}.wav"), speech::wav(&noisy)?);
        }
    }
    Ok(())
}

fn splits() -> Vec<Split<'static>> {
    let split = |name, num_rows, compositions| Split {
        name,
        num_rows,
        compositions,
        tile_folder: "images/train",
        tiles_per_class: TRAIN_TILES,
        clip_folder: "audios/train",
        clips_per_class: speech::TRAINING.len(),
        worked: false,
    };
    let test = |name, compositions| Split {
        tile_folder: "images/test",
        tiles_per_class: TEST_TILES,
        ..split(name, 500, compositions)
    };
    vec![
        Split { worked: true, ..split("sft", 96, FOUR) },
        Split { worked: true, ..split("sft_384", 384, FOUR) },
        split("train", 4_000, FOUR),
        test("test", FOUR),
        test("test_more", SIX),
        Split {
            clip_folder: "audios/held_out",
            clips_per_class: speech::HELD_OUT.len(),
            ..test("test_voice", FOUR)
        },
        Split {
            tile_folder: "images/val",
            tiles_per_class: VALIDATION_TILES,
            ..split(VALIDATION, 500, FOUR)
        },
    ]
}

fn jsonl(rows: &[Row]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}
