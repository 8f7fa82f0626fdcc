//! What decoded media, and the features of frozen towers, come to take in a run.

use std::collections::BTreeSet;

use kyoka_core::{Content, Modality, Sample, Task};

use super::sizes::{PolicySizes, TowerSizes};
use crate::{
    Error, preparing::Prepared, recipe::limited, stages::StageConfig, task::STORE_BYTES,
    training::FEATURE_BYTES,
};

/// Rows whose media are decoded to learn their size.
pub(super) const DECODED_ROWS: usize = 4;

/// About `count` items, spread over all.
pub(super) fn spread<T>(items: &[T], count: usize) -> impl Iterator<Item = &T> {
    items.iter().step_by((items.len() / count.max(1)).max(1)).take(count)
}

/// What a stage or an evaluation reads of a split.
struct Draw<'a> {
    rows: Vec<&'a Sample>,
    /// Rows that are drawn, the same ones again where there are fewer.
    count: usize,
    /// Whether media are changed each time.
    augment: bool,
}

impl<'a> Draw<'a> {
    /// The media of the distinct rows that are seen.
    fn media(&self, modality: Modality) -> impl Iterator<Item = &'a Content> {
        let media = spread(&self.rows, self.count).flat_map(|sample| sample.media());
        media.filter(move |medium| medium.modality == modality).map(|medium| &medium.content)
    }
}

/// Everything that the recipe reads.
fn draws(prepared: &Prepared) -> Vec<Draw<'_>> {
    let Prepared { settings, splits, pairs, .. } = prepared;
    let stage = |stage: &'_ StageConfig| {
        let rows = match (stage.rows(), stage.pairs()) {
            (Some(split), _) => splits[split].iter().collect(),
            (_, Some(split)) => pairs[split].iter().map(|row| &row.sample).collect(),
            _ => Vec::new(),
        };
        let (count, augment) = stage.draws();
        Draw { rows, count, augment }
    };
    let mut found: Vec<Draw<'_>> = settings.stage.iter().map(stage).collect();
    found.extend(settings.eval.all_splits().map(|split| {
        let rows: Vec<&Sample> = limited(&splits[split], settings.eval.max_rows).iter().collect();
        Draw { count: rows.len(), rows, augment: false }
    }));
    found
}

/// Bytes of the distinct media files that a run sees once they are decoded, from the size of a few.
pub(super) fn media_bytes(prepared: &Prepared) -> Result<usize, Error> {
    let draws = draws(prepared);
    let mut total = 0;
    for modality in [Modality::Image, Modality::Audio] {
        let media: BTreeSet<&Content> = draws.iter().flat_map(|draw| draw.media(modality)).collect();
        let media: Vec<&Content> = media.into_iter().collect();
        let mut few = Vec::new();
        for content in spread(&media, DECODED_ROWS) {
            let bytes = content.read().map_err(|error| Error::file(content.to_string(), error))?;
            few.extend(prepared.task.decoded_bytes(modality, &bytes));
        }
        let mean = few.iter().sum::<usize>() / few.len().max(1);
        total += (mean * media.len()).min(STORE_BYTES);
    }
    Ok(total)
}

/// Bytes of the features that a run keeps, from the tokens that a few media take: one entry a file, or one a draw where
/// media are changed each time.
pub(super) fn feature_bytes(prepared: &Prepared, sizes: &PolicySizes) -> usize {
    let draws = draws(prepared);
    let augment = &prepared.settings.augment;
    let of = |modality, tower: Option<TowerSizes>, unchanged: bool| {
        let Some(tower) = tower else { return 0 };
        let changes = |draw: &&Draw<'_>| draw.augment && !unchanged;
        let files: BTreeSet<&Content> =
            draws.iter().filter(|draw| !changes(draw)).flat_map(|draw| draw.media(modality)).collect();
        let changed = draws.iter().filter(changes).map(|draw| {
            let times = draw.count.div_ceil(draw.rows.len().max(1));
            times * draw.media(modality).count()
        });
        let entries = files.len() + changed.sum::<usize>();
        (4 * tower.features(tokens(prepared, modality)) * entries).min(FEATURE_BYTES)
    };
    of(Modality::Image, sizes.image, augment.image.changes_nothing())
        + of(Modality::Audio, sizes.audio, augment.audio.changes_nothing())
}

/// Tokens that a medium takes, in the mean of those of a few rows.
fn tokens(prepared: &Prepared, modality: Modality) -> usize {
    let rows: Vec<&Sample> = prepared.splits.values().flatten().collect();
    let prompts = spread(&rows, DECODED_ROWS).filter_map(|sample| prepared.task.prompt(sample, None).ok());
    let spans: Vec<_> = prompts.flat_map(|prompt| prompt.spans).collect();
    let lengths = spans.iter().filter(|span| span.modality == modality).map(|span| span.positions.len());
    let (sum, count) = lengths.fold((0, 0_usize), |(sum, count), length| (sum + length, count + 1));
    sum.div_ceil(count.max(1))
}
