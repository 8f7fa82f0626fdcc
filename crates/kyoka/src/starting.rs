//! With what weights and adapters a run begins: those of its checkpoints, of another run, of an adapter's folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use kyoka_core::{load_parameters, named_parameters};
use kyoka_nn::{WeightInit, WeightRule};
use kyoka_trainer::load_weights;

use crate::{
    Error, Policy, PolicyConfig,
    adapters::{Adapters, ExistingAdapters, Naming, head_module, is_adapter, merged, read_adapter},
    model::{Beginning, ModelSettings, Opened},
    model_folder::locate,
    policy::read_config,
};

fn refused(reason: String) -> Error {
    Error::Recipe { name: "model".to_owned(), reason }
}

/// The adapters that are trained, from those that are there and those that are asked for.
fn chosen(
    settings: &ModelSettings,
    place: &Path,
    existing: Option<Adapters>,
    asked: Option<Adapters>,
) -> Result<Option<Adapters>, Error> {
    let place = place.display();
    let Some(mut existing) = existing else {
        return match settings.existing_adapters {
            Some(_) => {
                Err(refused(format!("existing_adapters: expected a start with adapters, {place} has none")))
            }
            None => Ok(asked),
        };
    };
    if settings.existing_adapters == Some(ExistingAdapters::Merge) {
        return Ok(asked);
    }
    let Some(asked) = asked else {
        if settings.existing_adapters.is_none() && settings.start.is_some() {
            return Err(refused(format!(
                "start: {place} was trained with LoRA: say model.existing_adapters = \"continue\" to train its adapters \
                 further, or \"merge\" to fold them into the weights"
            )));
        }
        // What is dropped in training is the recipe's to say, not the adapter's.
        existing.lora.dropout = 0.0;
        return Ok(Some(existing));
    };
    let differences = existing.differences(&asked);
    if !differences.is_empty() {
        return Err(refused(format!(
            "lora: {place} has adapters with other settings: {}; take those, or fold its adapters in with \
             model.existing_adapters = \"merge\"",
            differences.join(", ")
        )));
    }
    existing.lora.dropout = asked.lora.dropout;
    Ok(Some(existing))
}

impl Opened {
    /// Decides where weights and adapters come from; the configuration is that of the policy that is trained.
    ///
    /// # Errors
    /// If the start is none, speaks with another tokenizer, or has other adapters than the recipe asks for.
    pub fn begin(&mut self, settings: &ModelSettings) -> Result<(), Error> {
        let (place, existing) = match (&settings.start, &settings.adapter) {
            (Some(start), _) => {
                let (checkpoint, existing) = self.of_run(start)?;
                self.beginning = Beginning::Run { checkpoint, adapters: existing.clone(), merge: false };
                (start, existing)
            }
            (None, Some(folder)) => {
                self.put_adapter(folder)?;
                (folder, self.config.adapters.clone())
            }
            (None, None) => {
                self.config.adapters = self.asked(settings)?;
                return Ok(());
            }
        };
        let asked = self.asked(settings)?;
        let merges = settings.existing_adapters == Some(ExistingAdapters::Merge);
        self.config.adapters = chosen(settings, place, existing, asked)?;
        if let Beginning::Adapter { merge, .. } | Beginning::Run { merge, .. } = &mut self.beginning {
            *merge = merges;
        }
        Ok(())
    }

    /// The adapters that the recipe asks for.
    fn asked(&self, settings: &ModelSettings) -> Result<Option<Adapters>, Error> {
        let Some(lora) = &settings.lora else { return Ok(None) };
        let plain = PolicyConfig { adapters: None, ..self.config.clone() };
        let mut blank = plain.build_with(&mut WeightInit::blank(&Device::default()));
        let (model_type, mut rules) = (self.config.model_type(), self.rules()?);
        let untied = !self.config.decoder.tie_embeddings;
        if untied && !rules.iter().any(|rule| rule.parameter == "decoder.head.weight") {
            // An adapter made two of what is one matrix on disk.
            rules.extend(WeightRule::linear("decoder.head", &[head_module(model_type)], false));
        }
        let naming = Naming { model_type, rules: &rules };
        let adapters = Adapters::of(lora.clone(), &mut blank, naming);
        adapters.map(Some).map_err(|reason| refused(format!("lora.{reason}")))
    }

    /// The checkpoint that a start stands for, and its adapters.
    fn of_run(&mut self, start: &Path) -> Result<(PathBuf, Option<Adapters>), Error> {
        if is_adapter(start) {
            let reason = "expected a run or a checkpoint of one, got an adapter in PEFT's layout: name it as model.adapter";
            return Err(Error::file(start, reason));
        }
        let (_, checkpoint) = locate(start)?;
        let texts = self.files.iter().filter(|(name, _)| name.ends_with("tokenizer.json"));
        for (name, own) in texts {
            let path = checkpoint.join(name);
            let tokenizer = fs::read(&path).map_err(|error| Error::file(&path, error))?;
            if tokenizer != *own {
                return Err(Error::file(path, "expected the recipe's tokenizer, got another one"));
            }
        }
        let theirs = read_config(&checkpoint)?;
        self.config.decoder.tie_embeddings = theirs.decoder.tie_embeddings;
        Ok((checkpoint, theirs.adapters))
    }

    /// Puts the adapter of a folder beside the policy.
    ///
    /// # Errors
    /// Names the file, and the modules that the policy does not have.
    pub fn put_adapter(&mut self, folder: &Path) -> Result<(), Error> {
        let rules = self.rules()?;
        let mut blank = self.config.build_with(&mut WeightInit::blank(&Device::default()));
        read_adapter(folder, (&mut blank, &mut self.config), &rules)?;
        self.beginning = Beginning::Adapter { folder: folder.to_owned(), merge: false };
        Ok(())
    }

    /// The policy with its weights; what no checkpoint gives is drawn from `seed`.
    pub fn policy(&self, seed: u64, device: &Device) -> Result<Policy, Error> {
        let mut init = WeightInit::new(seed, device);
        match &self.beginning {
            Beginning::Checkpoints => {
                let policy = self.of_checkpoints(&mut init)?;
                Ok(self.with_fresh_adapters(policy, &mut init))
            }
            Beginning::Adapter { folder, merge } => {
                let mut init_there = WeightInit::new(seed, &device.clone().without_autodiff());
                let mut policy = self.of_checkpoints(&mut init_there)?;
                let mut config = self.config.clone();
                read_adapter(folder, (&mut policy, &mut config), &self.rules()?)?;
                self.rebuilt(policy, *merge, &mut init)
            }
            Beginning::Run { checkpoint, adapters, merge } => {
                let weights = checkpoint.join("model.safetensors");
                let theirs = PolicyConfig { adapters: adapters.clone(), ..self.config.clone() };
                let blank = |config: &PolicyConfig, device: &Device| {
                    config.build_with(&mut WeightInit::blank(device))
                };
                match (adapters, merge) {
                    (Some(_), true) => {
                        let there =
                            load_weights(&weights, blank(&theirs, &device.clone().without_autodiff()))?;
                        self.rebuilt(there, true, &mut init)
                    }
                    (Some(_), false) => Ok(load_weights(&weights, blank(&self.config, device))?),
                    (None, _) => {
                        let policy = load_weights(&weights, blank(&theirs, device))?;
                        Ok(self.with_fresh_adapters(policy, &mut init))
                    }
                }
            }
        }
    }

    fn with_fresh_adapters(&self, mut policy: Policy, init: &mut WeightInit) -> Policy {
        if let Some(adapters) = &self.config.adapters {
            adapters.attach(&mut policy, init);
        }
        policy
    }

    /// The weights of a policy without autodiff in one that is trained; merged ones get fresh adapters where the recipe asks
    /// for some.
    fn rebuilt(&self, policy: Policy, merge: bool, init: &mut WeightInit) -> Result<Policy, Error> {
        let (policy, config) = match merge {
            true => (merged(policy), PolicyConfig { adapters: None, ..self.config.clone() }),
            false => (policy, self.config.clone()),
        };
        let values = named_parameters(&policy).into_iter().map(|(name, (_, value))| (name, value)).collect();
        drop(policy);
        let blank = config.build_with(&mut WeightInit::blank(init.device()));
        let policy = load_parameters(blank, values).map_err(|error| refused(error.to_string()))?;
        Ok(if merge { self.with_fresh_adapters(policy, init) } else { policy })
    }
}
