//! Questions about a picture and a spoken name.

use rand::{Rng, RngExt, seq::SliceRandom};

use super::{questions::Row, stamps::Stamp};

/// Pictures of a question of the second kind.
const CHOICES: usize = 4;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Does the voice name the picture? Yes and no in equal parts.
    Named,
    /// Which of the four pictures does the voice name? 1 to 4 in equal parts.
    Which,
}

/// What rows are drawn from.
pub struct Draw<'a> {
    /// Prefix of the row ids.
    pub name: &'a str,
    /// The stamps, in groups: no question shows or names two of one group.
    pub groups: &'a [Vec<&'a Stamp>],
    /// Whether rows carry the worked completion.
    pub worked: bool,
}

impl Draw<'_> {
    /// Draws rows of the kinds given, one kind after the other; answers of a kind are balanced.
    pub fn rows(&self, kinds: &[Kind], num_rows: usize, rng: &mut impl Rng) -> Vec<Row> {
        // Every group is named about equally often: the deck is dealt out before it is shuffled again.
        let mut deck = Vec::new();
        let mut answers: Vec<usize> = (0..num_rows / kinds.len().max(1)).collect();
        answers.shuffle(rng);
        (0..num_rows)
            .map(|index| {
                if deck.is_empty() {
                    deck = (0..self.groups.len()).collect();
                    deck.shuffle(rng);
                }
                let heard = deck.pop().unwrap_or_default();
                let place = answers.get(index / kinds.len()).copied().unwrap_or(index);
                match kinds[index % kinds.len()] {
                    Kind::Named => self.named(index, heard, place.is_multiple_of(2), rng),
                    Kind::Which => self.which(index, heard, place % CHOICES, rng),
                }
            })
            .collect()
    }

    fn named(&self, index: usize, heard: usize, same: bool, rng: &mut impl Rng) -> Row {
        let shown = if same { heard } else { self.others(heard, 1, rng)[0] };
        let answer = if same { "yes" } else { "no" };
        let voice = self.pick(heard, rng);
        // The picture whose voice it is, not another one of the same name.
        let picture = if same { voice } else { self.pick(shown, rng) };
        let prompt = "<image><audio>Does the voice name the picture? Answer yes or no.".to_owned();
        self.row(index, Question { prompt, voice, pictures: vec![picture], answer: answer.to_owned() })
    }

    fn which(&self, index: usize, heard: usize, place: usize, rng: &mut impl Rng) -> Row {
        let voice = self.pick(heard, rng);
        let mut pictures: Vec<&Stamp> =
            self.others(heard, CHOICES - 1, rng).into_iter().map(|group| self.pick(group, rng)).collect();
        pictures.insert(place, voice);
        let prompt = format!(
            "{}<audio>Which picture does the voice name? Answer 1, 2, 3 or 4.",
            "<image>".repeat(CHOICES)
        );
        self.row(index, Question { prompt, voice, pictures, answer: (place + 1).to_string() })
    }

    fn row(&self, index: usize, question: Question<'_>) -> Row {
        let Question { prompt, voice, pictures, answer } = question;
        // What is seen comes first: said after the voice's name, half of the pictures' names would be copies of it.
        let labels = pictures.iter().copied().chain([voice]).map(|stamp| stamp.label.clone());
        let steps: Vec<String> = labels.collect();
        let worked = format!("<think> {} </think> <answer> {answer} </answer>", steps.join(" "));
        Row {
            id: format!("{}-{index:04}", self.name),
            prompt,
            images: pictures.iter().map(|stamp| picture_path(stamp)).collect(),
            audios: vec![sound_path(voice)],
            answer,
            steps,
            completion: self.worked.then_some(worked),
        }
    }

    fn pick(&self, group: usize, rng: &mut impl Rng) -> &Stamp {
        let stamps = &self.groups[group];
        stamps[rng.random_range(0..stamps.len())]
    }

    /// Groups other than `group`, all different.
    fn others(&self, group: usize, count: usize, rng: &mut impl Rng) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        while found.len() < count {
            let other = rng.random_range(0..self.groups.len());
            if other != group && !found.contains(&other) {
                found.push(other);
            }
        }
        found
    }
}

struct Question<'a> {
    prompt: String,
    voice: &'a Stamp,
    pictures: Vec<&'a Stamp>,
    answer: String,
}

/// Where a stamp's picture lies in the dataset.
pub fn picture_path(stamp: &Stamp) -> String {
    format!("images/{}.png", stamp.path)
}

/// Where a stamp's spoken name lies in the dataset.
pub fn sound_path(stamp: &Stamp) -> String {
    format!("audios/{}.ogg", stamp.path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn rows() -> Vec<Row> {
        let stamps: Vec<Stamp> = (0..12).map(|place| Stamp::named(&format!("s{place}"), place / 2)).collect();
        let groups: Vec<Vec<&Stamp>> = stamps.chunks(2).map(|pair| pair.iter().collect()).collect();
        let draw = Draw { name: "t", groups: &groups, worked: true };
        draw.rows(&[Kind::Named, Kind::Which], 80, &mut ChaCha8Rng::seed_from_u64(1))
    }

    /// The group of `images/s<place>.png` or `audios/s<place>.ogg`.
    fn group_of(path: &str) -> usize {
        let digits: String = path.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<usize>().unwrap() / 2
    }

    #[test]
    fn answers_are_balanced_and_right() {
        let mut counts = BTreeMap::new();
        for row in rows() {
            *counts.entry(row.answer.clone()).or_insert(0) += 1;
            let shown: Vec<usize> = row.images.iter().map(|path| group_of(path)).collect();
            let heard = group_of(&row.audios[0]);
            match row.answer.as_str() {
                "yes" => assert_eq!(shown, [heard]),
                "no" => assert_ne!(shown, [heard]),
                place => assert_eq!(shown[place.parse::<usize>().unwrap() - 1], heard),
            }
            let mut different = shown.clone();
            different.sort_unstable();
            different.dedup();
            assert_eq!(different.len(), shown.len(), "two pictures of one name: {:?}", row.images);
        }
        let expected = [("1", 10), ("2", 10), ("3", 10), ("4", 10), ("no", 20), ("yes", 20)];
        assert_eq!(counts, expected.map(|(answer, count)| (answer.to_owned(), count)).into());
    }

    #[test]
    fn the_worked_completion_names_what_is_seen_then_what_is_heard() {
        for row in rows() {
            assert_eq!(row.steps.len(), 1 + row.images.len());
            let named: Vec<usize> = row.steps.iter().map(|label| group_of(label)).collect();
            let media = row.images.iter().chain(&row.audios).map(|path| group_of(path));
            assert!(named.iter().copied().eq(media));
            let text = format!("<think> {} </think> <answer> {} </answer>", row.steps.join(" "), row.answer);
            assert_eq!(row.completion, Some(text));
        }
    }
}
