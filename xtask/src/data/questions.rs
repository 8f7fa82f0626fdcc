//! Questions that nobody can answer deaf or blind.
//!
//! The pictures are drawn first, by how often each kind appears; then the spoken item is drawn with equal chance for
//! each multiplicity present or for an absent kind. So neither the pictures nor the word alone gives the answer away.

use rand::{Rng, RngExt, seq::SliceRandom};
use serde::Serialize;

use super::fashion::CLASSES;

/// One row as the dataset file holds it.
#[derive(Clone, Serialize)]
pub struct Row {
    pub id: String,
    pub prompt: String,
    pub images: Vec<String>,
    pub audios: Vec<String>,
    pub answer: String,
    pub steps: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
}

/// What a split draws from.
pub struct Split<'a> {
    /// File name without ending, and prefix of the row ids.
    pub name: &'a str,
    /// Number of rows.
    pub num_rows: usize,
    /// How many tiles of each kind a picture row may have, e.g. `[2, 1, 1]`; one is drawn a row.
    pub compositions: &'a [&'a [usize]],
    /// Folder of the tiles.
    pub tile_folder: &'a str,
    /// Tiles a class.
    pub tiles_per_class: usize,
    /// Folder of the clips.
    pub clip_folder: &'a str,
    /// Clips a class.
    pub clips_per_class: usize,
    /// Whether rows carry the worked completion.
    pub worked: bool,
}

impl Split<'_> {
    /// Draws all rows.
    pub fn rows(&self, rng: &mut impl Rng) -> Vec<Row> {
        (0..self.num_rows).map(|index| self.row(index, rng)).collect()
    }

    fn row(&self, index: usize, rng: &mut impl Rng) -> Row {
        let composition = self.compositions[rng.random_range(0..self.compositions.len())];
        let mut kinds: Vec<usize> = (0..CLASSES.len()).collect();
        kinds.shuffle(rng);
        let (present, absent) = kinds.split_at(composition.len());
        let mut tiles: Vec<usize> = present
            .iter()
            .zip(composition)
            .flat_map(|(&kind, &count)| std::iter::repeat_n(kind, count))
            .collect();
        tiles.shuffle(rng);

        let mut multiplicities = composition.to_vec();
        multiplicities.push(0);
        multiplicities.sort_unstable();
        multiplicities.dedup();
        let answer = multiplicities[rng.random_range(0..multiplicities.len())];
        let candidates: Vec<usize> = match answer {
            0 => absent.to_vec(),
            _ => present
                .iter()
                .zip(composition)
                .filter(|&(_, &n)| n == answer)
                .map(|(&kind, _)| kind)
                .collect(),
        };
        let heard = candidates[rng.random_range(0..candidates.len())];

        let tile_path = |kind: usize, rng: &mut _| {
            let number = Rng::next_u32(rng) as usize % self.tiles_per_class;
            format!("{}/{}/{number:03}.png", self.tile_folder, CLASSES[kind])
        };
        let images = tiles.iter().map(|&kind| tile_path(kind, rng)).collect();
        let clip = rng.random_range(0..self.clips_per_class);
        let steps = std::iter::once(heard).chain(tiles.iter().copied()).map(|kind| CLASSES[kind].to_owned());
        Row {
            id: format!("{}-{index:04}", self.name),
            prompt: format!(
                "{}<audio>How many of the pictures show the spoken item?",
                "<image>".repeat(tiles.len())
            ),
            images,
            audios: vec![format!("{}/{}-{clip:02}.wav", self.clip_folder, CLASSES[heard])],
            answer: answer.to_string(),
            steps: steps.collect(),
            completion: self.worked.then(|| worked_completion(heard, &tiles)),
        }
    }
}

/// The heard word, then every picture with the count so far.
fn worked_completion(heard: usize, tiles: &[usize]) -> String {
    let mut text = format!("<think> {}", CLASSES[heard]);
    let mut count = 0;
    for &tile in tiles {
        count += usize::from(tile == heard);
        text += &format!(" {} {count}", CLASSES[tile]);
    }
    format!("{text} </think> <answer> {count} </answer>")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn answers_count_the_heard_tiles_and_are_balanced() {
        let split = Split {
            name: "t",
            num_rows: 3000,
            compositions: &[&[2, 1, 1], &[3, 1]],
            tile_folder: "images",
            tiles_per_class: 10,
            clip_folder: "audios",
            clips_per_class: 3,
            worked: true,
        };
        let rows = split.rows(&mut rand_chacha::ChaCha8Rng::seed_from_u64(1));
        let mut shares = [0.0; 4];
        for row in &rows {
            let count = row.steps[1..].iter().filter(|step| **step == row.steps[0]).count();
            assert_eq!(row.answer, count.to_string());
            assert!(
                row.completion
                    .as_ref()
                    .unwrap()
                    .ends_with(&format!("{count} </think> <answer> {count} </answer>"))
            );
            shares[count] += 1.0 / rows.len() as f64;
        }
        for (share, expected) in shares.iter().zip([1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0]) {
            assert!((share - expected).abs() < 0.03, "{shares:?}");
        }
    }

    #[test]
    fn the_worked_completion_keeps_a_running_count() {
        let class = |name| CLASSES.iter().position(|c| *c == name).unwrap();
        let tiles = ["shirt", "coat", "coat", "bag"].map(class);
        let expected = "<think> coat shirt 0 coat 1 coat 2 bag 2 </think> <answer> 2 </answer>";
        assert_eq!(worked_completion(class("coat"), &tiles), expected);
    }
}
