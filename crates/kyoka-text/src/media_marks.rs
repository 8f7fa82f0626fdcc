//! How a checkpoint's family writes pictures and sounds in text.

use kyoka_core::{Modality, ModalitySpan};

use crate::TextError;

/// The marks of a checkpoint, by modality; `None` where it lacks the sense.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaMarks {
    /// Pictures.
    pub image: Option<MediaMark>,
    /// Sounds.
    pub audio: Option<MediaMark>,
}

/// What stands for one medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaMark {
    /// The token that a chat template writes once a medium, and that is repeated for each of its positions.
    pub placeholder: String,
    /// Its id.
    pub id: u32,
    /// Stands before the medium where no template writes it, such as `<|vision_start|>`.
    pub before: String,
    /// Stands after it.
    pub after: String,
    /// Marks around tiles, in families that split pictures.
    pub tiles: Option<TileMarks>,
}

/// How SmolVLM and Idefics3 mark the tiles of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileMarks {
    /// Stands before each tile and at the end: `<fake_token_around_image>`.
    pub around: String,
    /// Stands before the view of the whole: `<global-img>`.
    pub global: String,
}

/// A medium as a prompt must make room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediumTokens {
    /// Which kind.
    pub modality: Modality,
    /// Tokens of one view: of one tile where a picture is split, else of all of it.
    pub tokens_per_view: usize,
    /// Rows and columns of tiles, which a view of the whole follows; `None`: one view.
    pub split: Option<[usize; 2]>,
}

impl MediumTokens {
    /// Lengths of the runs of placeholders.
    fn runs(&self) -> usize {
        self.split.map_or(1, |[rows, columns]| rows * columns + 1)
    }
}

impl MediaMarks {
    /// The mark of one kind of medium.
    pub fn of(&self, modality: Modality) -> Option<&MediaMark> {
        match modality {
            Modality::Image => self.image.as_ref(),
            Modality::Audio => self.audio.as_ref(),
        }
    }

    /// Both kinds that are there.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Modality, &MediaMark)> {
        [Modality::Image, Modality::Audio].into_iter().filter_map(|kind| Some((kind, self.of(kind)?)))
    }

    /// `text` with each placeholder written out for its medium; the n-th placeholder of a kind takes the n-th medium of
    /// that kind, as the processors of transformers have it.
    ///
    /// # Errors
    /// If placeholders and media of a kind differ in number, or there is no mark for a medium.
    pub fn expand(&self, text: &str, media: &[MediumTokens]) -> Result<String, TextError> {
        Ok(self.expand_in_order(text, media)?.0)
    }

    /// The text written out, and the media in the order in which they stand in it.
    pub(crate) fn expand_in_order(
        &self,
        text: &str,
        media: &[MediumTokens],
    ) -> Result<(String, Vec<MediumTokens>), TextError> {
        let mut queues = [Modality::Image, Modality::Audio].map(|modality| {
            let of_kind = media.iter().filter(move |medium| medium.modality == modality).copied();
            (modality, of_kind.collect::<std::collections::VecDeque<_>>())
        });
        self.check_counts(text, media)?;
        let (mut out, mut order) = (String::with_capacity(text.len()), Vec::new());
        let mut rest = text;
        while let Some((at, modality, mark)) = self.next_mark(rest) {
            out.push_str(&rest[..at]);
            let queue = queues.iter_mut().find(|(kind, _)| *kind == modality);
            let medium = queue.and_then(|(_, queue)| queue.pop_front()).expect("the counts were compared");
            mark.write(medium, &mut out);
            order.push(medium);
            rest = &rest[at + mark.placeholder.len()..];
        }
        out.push_str(rest);
        Ok((out, order))
    }

    fn check_counts(&self, text: &str, media: &[MediumTokens]) -> Result<(), TextError> {
        for modality in [Modality::Image, Modality::Audio] {
            let got = media.iter().filter(|medium| medium.modality == modality).count();
            let mark = self.of(modality);
            let expected = mark.map_or(0, |mark| text.matches(mark.placeholder.as_str()).count());
            if expected != got {
                return Err(TextError::MediaCount { modality: modality.name(), expected, got });
            }
        }
        Ok(())
    }

    /// The first placeholder in `text`; of two at one place the longer.
    fn next_mark(&self, text: &str) -> Option<(usize, Modality, &MediaMark)> {
        let found = self.each().filter_map(|(modality, mark)| {
            Some((text.find(mark.placeholder.as_str())?, modality, mark))
        });
        found.min_by_key(|(at, _, mark)| (*at, usize::MAX - mark.placeholder.len()))
    }

    /// The spans of `media`, which stand in `token_ids` in this order.
    pub(crate) fn spans(
        &self,
        token_ids: &[u32],
        media: &[MediumTokens],
    ) -> Result<Vec<ModalitySpan>, TextError> {
        let mut spans = Vec::new();
        let mut at = 0;
        for medium in media {
            let Some(mark) = self.of(medium.modality) else { continue };
            for _ in 0..medium.runs() {
                at += token_ids[at..].iter().take_while(|&&id| !self.is_placeholder(id)).count();
                let end = at + medium.tokens_per_view;
                let whole = token_ids.get(at..end).is_some_and(|run| run.iter().all(|&id| id == mark.id));
                if !whole {
                    return Err(TextError::PlaceholderTokens { placeholder: mark.placeholder.clone() });
                }
                spans.push(ModalitySpan { modality: medium.modality, positions: at..end });
                at = end;
            }
        }
        Ok(spans)
    }

    fn is_placeholder(&self, id: u32) -> bool {
        self.each().any(|(_, mark)| mark.id == id)
    }
}

impl MediaMark {
    /// A mark without anything around it.
    pub fn plain(placeholder: impl Into<String>, id: u32) -> Self {
        let placeholder = placeholder.into();
        Self { placeholder, id, before: String::new(), after: String::new(), tiles: None }
    }

    /// The placeholder as a prompt holds it that no template wrote.
    pub fn written(&self) -> String {
        format!("{}{}{}", self.before, self.placeholder, self.after)
    }

    fn write(&self, medium: MediumTokens, out: &mut String) {
        let view = self.placeholder.repeat(medium.tokens_per_view);
        let Some(TileMarks { around, global }) = &self.tiles else {
            out.push_str(&view);
            return;
        };
        if let Some([rows, columns]) = medium.split {
            for row in 1..=rows {
                for column in 1..=columns {
                    out.extend([around, format!("<row_{row}_col_{column}>").as_str(), &view]);
                }
                out.push('\n');
            }
            out.push('\n');
        }
        out.extend([around, global, view.as_str(), around]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tokens_per_view: usize, split: Option<[usize; 2]>) -> MediumTokens {
        MediumTokens { modality: Modality::Image, tokens_per_view, split }
    }

    fn smolvlm() -> MediaMarks {
        let tiles = TileMarks { around: "<fake>".to_owned(), global: "<global-img>".to_owned() };
        MediaMarks { image: Some(MediaMark { tiles: Some(tiles), ..MediaMark::plain("<image>", 7) }), audio: None }
    }

    #[test]
    fn a_whole_picture_and_a_split_one_are_written_as_smolvlm_has_them() {
        let media = [image(2, None), image(1, Some([2, 1]))];
        let text = smolvlm().expand("a<image>b<image>", &media).unwrap();
        let whole = "<fake><global-img><image><image><fake>";
        let split = "<fake><row_1_col_1><image>\n<fake><row_2_col_1><image>\n\n<fake><global-img><image><fake>";
        assert_eq!(text, format!("a{whole}b{split}"));
    }

    #[test]
    fn each_kind_keeps_its_own_order() {
        let marks = MediaMarks {
            image: Some(MediaMark::plain("<|image_pad|>", 1)),
            audio: Some(MediaMark::plain("<|AUDIO|>", 2)),
        };
        let audio = |tokens_per_view| MediumTokens { modality: Modality::Audio, tokens_per_view, split: None };
        let media = [image(1, None), image(2, None), audio(3)];
        let text = marks.expand("<|image_pad|>x<|AUDIO|><|image_pad|>", &media).unwrap();
        assert_eq!(text, "<|image_pad|>x<|AUDIO|><|AUDIO|><|AUDIO|><|image_pad|><|image_pad|>");
    }

    #[test]
    fn media_and_placeholders_must_match() {
        let error = smolvlm().expand("<image>", &[]).unwrap_err().to_string();
        assert_eq!(error, "expected 1 image(s) as the prompt has placeholders, got 0");
        let error = smolvlm().expand("", &[MediumTokens { modality: Modality::Audio, ..image(1, None) }]);
        assert!(matches!(error, Err(TextError::MediaCount { modality: "audio", .. })));
    }

    #[test]
    fn neighbouring_media_are_told_apart_by_their_lengths() {
        let marks = MediaMarks { image: Some(MediaMark::plain("<image>", 7)), audio: None };
        let media = [image(2, None), image(1, Some([1, 1]))];
        let spans = marks.spans(&[0, 7, 7, 7, 3, 7, 4], &media).unwrap();
        let positions: Vec<_> = spans.into_iter().map(|span| span.positions).collect();
        assert_eq!(positions, [1..3, 3..4, 5..6]);
        assert!(matches!(marks.spans(&[7, 0, 7], &media), Err(TextError::PlaceholderTokens { .. })));
    }
}
