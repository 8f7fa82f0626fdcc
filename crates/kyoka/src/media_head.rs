//! What the heads of media files tell, without a pixel or a sample being read.

use std::{
    collections::HashMap,
    fs::File,
    io::BufReader,
    sync::{Mutex, PoisonError},
};

use kyoka_audio::Waveform;
use kyoka_core::{MediaRef, Modality};
use kyoka_image::Picture;

/// The heads of media, or what is wrong with them; each file is opened once.
#[derive(Debug, Default)]
pub(crate) struct Heads(Mutex<HashMap<MediaRef, Result<Head, String>>>);

impl Heads {
    /// The head of a medium, or what is wrong with it.
    pub fn of(&self, media: &MediaRef) -> Result<Head, String> {
        let known = |heads: &HashMap<_, Result<Head, String>>| heads.get(media).cloned();
        if let Some(head) = known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return head;
        }
        let head = Head::read(media);
        let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heads.insert(media.clone(), head.clone());
        head
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
        let file = BufReader::new(File::open(&media.path).map_err(|error| error.to_string())?);
        match media.modality {
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
