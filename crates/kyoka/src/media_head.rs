//! What the heads of media files tell, without a pixel or a sample being read.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Cursor, Seek},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use kyoka_audio::Waveform;
use kyoka_core::{Content, MediaRef, Modality};
use kyoka_image::Picture;

/// A medium's place: the first who asks reads its head, others wait for that one.
type Place = Arc<OnceLock<Result<Head, String>>>;

/// The heads of media, or what is wrong with them; each file of a row is opened once, whoever asks at the same time.
#[derive(Debug, Default)]
pub(crate) struct Heads(Mutex<HashMap<MediaRef, Place>>);

impl Heads {
    /// The head of a medium, or what is wrong with it.
    pub fn of(&self, media: &MediaRef) -> Result<Head, String> {
        if matches!(media.content, Content::Bytes { .. }) {
            // As quick as to look them up.
            return Head::read(media);
        }
        let place = {
            let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match heads.get(media) {
                Some(place) => place.clone(),
                None => heads.entry(media.clone()).or_default().clone(),
            }
        };
        place.get_or_init(|| Head::read(media)).clone()
    }
}

/// What the head of a medium's file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    Picture {
        height: usize,
        width: usize,
    },
    /// Samples at 16 kHz; none where only the whole file tells.
    Sound {
        num_samples: Option<usize>,
    },
}

impl Head {
    fn read(media: &MediaRef) -> Result<Self, String> {
        match &media.content {
            Content::File(path) => {
                let file = File::open(path).map_err(|error| error.to_string())?;
                Self::of(media.modality, BufReader::new(file))
            }
            Content::Bytes { bytes, .. } => Self::of(media.modality, Cursor::new(bytes.clone())),
        }
    }

    fn of(modality: Modality, file: impl BufRead + Seek + Send + Sync + 'static) -> Result<Self, String> {
        match modality {
            Modality::Image => match Picture::probe(file) {
                Ok((height, width)) => Ok(Self::Picture { height, width }),
                Err(error) => Err(error.to_string()),
            },
            Modality::Audio => match Waveform::probe(file) {
                Ok(header) => Ok(Self::Sound { num_samples: header.num_samples }),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}
