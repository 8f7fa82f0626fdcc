//! Image encoders of other crates: `model.image_encoder` of a recipe.

use std::{path::Path, sync::Arc};

use burn::{
    module::{Module, ModuleDisplay},
    tensor::Device,
};
use kyoka_core::{ImageInput, ModalityEncoder, PartError, Stream, stream_rng};
use kyoka_fusion::{Projector, ProjectorConfig, Tower};
use kyoka_image::{FixedSizeProcessor, ImageEncoderConfig, ImageProcessor, OwnImageEncoder};
use kyoka_nn::{Linears, WeightInit};
use kyoka_trainer::load_weights;
use rand::Rng;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::{
    Error, MediaAugment, MultimodalTask, Policy, PolicyConfig, VisionConfig,
    doors::{ImageEncoderDoor, not_brought},
    hub::checkpoint_folder,
    model::{Beginning, ModelSettings, Opened},
    model_folder::{is_hugging_face, locate},
    policy::read_config,
    reading::Fault,
    text_side::text_side,
};

/// `model.image_encoder`: an encoder that the program brings, with weights drawn from the run's seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnEncoderSettings {
    /// What it is called.
    pub name: String,
    /// What the encoder itself reads. Default empty.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub settings: Table,
}

/// What encodes pictures in a policy of a [`Run`](crate::Run).
pub trait RunImageEncoder: ModalityEncoder<Input = ImageInput> + Linears + ModuleDisplay + 'static {}

impl<I: ModalityEncoder<Input = ImageInput> + Linears + ModuleDisplay + 'static> RunImageEncoder for I {}

/// Makes an encoder of its settings, of the height and width of its pictures, and of fresh weights.
pub(crate) type MakeImageEncoder<I> =
    Arc<dyn Fn(Table, [usize; 2], &mut WeightInit) -> Result<I, PartError> + Send + Sync>;

/// What a recipe's checks and a policy's configuration are told of an encoder that only its program can build.
pub(crate) fn door<I: RunImageEncoder>(name: &str, make: MakeImageEncoder<I>) -> ImageEncoderDoor {
    let shown = name.to_owned();
    let describe = move |settings: &Table, [height, width]: [usize; 2]| {
        let encoder = make(settings.clone(), [height, width], &mut WeightInit::blank(&Device::default()))?;
        let picture = ImageInput::one_view([].into(), [3, height, width]);
        Ok(OwnImageEncoder {
            name: shown.clone(),
            settings: serde_json::to_value(settings)?,
            num_positions: encoder.num_positions(&picture),
            d_output: encoder.d_output(),
            num_params: Module::num_params(&encoder),
        })
    };
    ImageEncoderDoor { name: name.to_owned(), describe: Arc::new(describe) }
}

/// Refuses a recipe that names an encoder that the program does not bring, or none where it brings one.
///
/// # Errors
/// Says what the program brings.
pub(crate) fn check_named(
    settings: Option<&OwnEncoderSettings>,
    brought: Option<&ImageEncoderDoor>,
) -> Result<(), Fault> {
    let at = |fault: Fault| fault.below("image_encoder").below("model");
    match (settings, brought) {
        (None, None) => Ok(()),
        (Some(OwnEncoderSettings { name, .. }), Some(door)) if *name == door.name => Ok(()),
        (None, Some(door)) => {
            let reason = format!("this program sees through {:?}: expected its name, got none", door.name);
            Err(at(Fault::here(reason)))
        }
        (Some(OwnEncoderSettings { name, .. }), there) => {
            let names = there.iter().map(|door| &door.name);
            Err(at(not_brought(names, "image encoder", name)))
        }
    }
}

/// A saved policy that sees through an encoder which `make` makes, with its task, from a run or a checkpoint of one.
///
/// # Errors
/// If it is none of these, or does not see through the program's encoder.
pub(crate) fn open_seeing<I: RunImageEncoder>(
    make: &MakeImageEncoder<I>,
    (model, adapter): (&Path, Option<&Path>),
    device: &Device,
) -> Result<(Policy<I>, MultimodalTask), Error> {
    let model = &checkpoint_folder(model)?;
    let own = |config: &PolicyConfig| config.own_image_encoder().cloned();
    if adapter.is_some() || is_hugging_face(model)? {
        return Err(Error::file(model, "expected a run of this program, got a Hugging Face model"));
    }
    let (_, checkpoint) = locate(model)?;
    let config = read_config(&checkpoint)?;
    let mut blank = WeightInit::blank(device);
    let image = match (own(&config), &config.vision) {
        (Some(own), Some(vision)) => {
            let settings =
                Table::deserialize(own.settings).map_err(|error| Error::file(&checkpoint, error))?;
            let eyes = Eyes { make, settings, vision, d_model: config.decoder.d_model };
            Some(eyes.tower(&mut blank).map_err(|error| Error::file(&checkpoint, error))?)
        }
        (None, Some(_)) => {
            let reason = "the policy sees through an encoder of Kyoka's, expected this program's own";
            return Err(Error::file(&checkpoint, reason));
        }
        _ => None,
    };
    let blind = config.build_with(&mut blank);
    let policy = Policy::<I>::new(image, blind.audio, blind.decoder, config.positions);
    let policy = load_weights(&checkpoint.join("model.safetensors"), policy)?;
    let (tokenizer, template) = text_side(&checkpoint)?;
    let task = MultimodalTask::new(tokenizer, config, MediaAugment::default(), 0).with_template(template);
    Ok((policy, task))
}

/// What a tower of an own encoder is made of.
struct Eyes<'a, I> {
    make: &'a MakeImageEncoder<I>,
    settings: Table,
    vision: &'a VisionConfig,
    d_model: usize,
}

impl<I: RunImageEncoder> Eyes<'_, I> {
    fn tower(self, init: &mut WeightInit) -> Result<Tower<I>, PartError> {
        let ImageProcessor::FixedSize(FixedSizeProcessor { height, width, .. }) = self.vision.processor
        else {
            return Err("expected pictures of one size for an image encoder of a program".into());
        };
        let encoder = (self.make)(self.settings, [height, width], init)?;
        let projector = Projector::new(self.vision.projector, encoder.d_output(), self.d_model, init);
        Ok(Tower { encoder, projector })
    }
}

impl Opened {
    /// Gives the policy the eyes that the recipe names.
    ///
    /// # Errors
    /// If the encoder cannot be made of its settings, or its positions do not fold into tokens.
    pub(crate) fn put_image_encoder(
        &mut self,
        settings: &ModelSettings,
        door: &ImageEncoderDoor,
    ) -> Result<(), Error> {
        let Some(own) = &settings.image_encoder else { return Ok(()) };
        let refused = |key: &str, reason: String| Error::Recipe {
            name: "model".to_owned(),
            reason: format!("{key}: {reason}"),
        };
        let fixed = match self.config.vision.as_ref().map(|vision| &vision.processor) {
            Some(ImageProcessor::FixedSize(fixed)) => *fixed,
            _ => FixedSizeProcessor { height: 224, width: 224, ..FixedSizeProcessor::default() },
        };
        let processor = match settings.image_side {
            Some(side) => FixedSizeProcessor { height: side, width: side, ..fixed },
            None => fixed,
        };
        let described = (door.describe)(&own.settings, [processor.height, processor.width])
            .map_err(|error| refused("image_encoder.settings", error.to_string()))?;
        let fold = settings.image_fold.unwrap_or(1);
        if fold == 0 || described.num_positions == 0 || !described.num_positions.is_multiple_of(fold) {
            let expected = format!("a divisor of the encoder's {} positions", described.num_positions);
            return Err(refused("image_fold", format!("expected {expected}, got {fold}")));
        }
        self.config.vision = Some(VisionConfig {
            processor: ImageProcessor::FixedSize(processor),
            encoder: ImageEncoderConfig::Own(described),
            projector: ProjectorConfig::mlp(fold),
        });
        Ok(())
    }

    /// The policy with an image encoder of another crate, which `make` makes.
    ///
    /// # Errors
    /// As [`policy`](Self::policy), and if the encoder cannot be made.
    pub(crate) fn policy_seeing<I: RunImageEncoder>(
        &self,
        make: &MakeImageEncoder<I>,
        (settings, seed): (&ModelSettings, u64),
        device: &Device,
    ) -> Result<Policy<I>, Error> {
        let eyes = |config: &PolicyConfig, init: &mut WeightInit| -> Result<Option<Tower<I>>, Error> {
            let (Some(own), Some(vision)) = (&settings.image_encoder, &config.vision) else {
                return Ok(None);
            };
            let (settings, d_model) = (own.settings.clone(), config.decoder.d_model);
            let tower = Eyes { make, settings, vision, d_model }.tower(init);
            tower.map(Some).map_err(|error| Error::Recipe {
                name: "model".to_owned(),
                reason: format!("image_encoder.settings: {error}"),
            })
        };
        let with_eyes = |blind: Policy, image: Option<Tower<I>>| {
            Policy::<I>::new(image, blind.audio, blind.decoder, self.config.positions)
        };
        let Beginning::Run { checkpoint, adapters, merge } = &self.beginning else {
            // The eyes have draws of their own: they change no other weight.
            let own_seed = stream_rng(seed, Stream::Init, &[1]).next_u64();
            let image = eyes(&self.config, &mut WeightInit::new(own_seed, device))?;
            return Ok(with_eyes(self.policy(seed, device)?, image));
        };
        if adapters.is_some() != self.config.adapters.is_some() || *merge {
            let reason = "start: expected a run with the adapters of this recipe beside an own image encoder";
            return Err(Error::Recipe { name: "model".to_owned(), reason: reason.to_owned() });
        }
        let mut blank = WeightInit::blank(device);
        let image = eyes(&self.config, &mut blank)?;
        let policy = with_eyes(self.config.build_with(&mut blank), image);
        Ok(load_weights(&checkpoint.join("model.safetensors"), policy)?)
    }
}
