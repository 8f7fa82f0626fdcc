#![doc = include_str!("../README.md")]

mod adapters;
mod bench_shape;
mod benching;
mod bundled;
mod chatting;
mod checking;
mod conversation;
mod device;
mod device_check;
mod doors;
mod engine;
mod environment;
mod error;
mod eval_settings;
mod evaluating;
mod execution;
mod exporting;
mod freezing;
mod generating;
mod hub;
mod kinds;
mod learned_reward;
mod local_judge;
mod media_head;
mod model;
mod model_folder;
mod own_image_encoder;
mod part_config;
mod plan;
mod policy;
mod precision;
mod preparing;
mod pretrained;
mod random_task;
mod reading;
mod recipe;
mod reward_check;
mod rewards;
mod roofline;
mod run;
mod scoring;
mod setting_checks;
mod source;
mod stages;
mod starting;
mod task;
mod text_side;
mod training;

pub use adapters::{AdapterPlace, Adapters, LoraSettings, SavedParameter};
pub use bench_shape::BenchShape;
pub use benching::{
    BenchOptions, DecodeTimes, StepTimes, TextStepTimes, bench_decode, bench_step, bench_text_step,
};
pub use bundled::{data_folder, dataset_folder};
pub use chatting::Chat;
pub use checking::{CheckedData, check_data};
pub use device::{DeviceChoice, choose_device, open_device};
pub use device_check::{Comparison, DEVICE_TOLERANCE, check_device};
pub use doors::EngineContext;
pub use engine::{CustomEngine, EngineKind, LocalSettings};
pub use environment::{CustomEnvironment, EnvironmentConfig, EnvironmentKind, ToolsSettings};
pub use error::Error;
pub use evaluating::{EvalOptions, evaluate_checkpoint};
pub use exporting::{ExportDtype, ExportOptions, Exported, export};
pub use generating::{GenerateOptions, generate};
pub use hub::checkpoint_folder;
pub use own_image_encoder::RunImageEncoder;
pub use part_config::PartConfig;
pub use plan::{Phase, PhaseBytes, Plan, PlanOptions, Suggestion, plan};
pub use policy::{AudioConfig, Policy, PolicyConfig, Source, VisionConfig, load_policy};
pub use precision::{Precision, open_device_with};
pub use pretrained::{
    Placeholders, Pretrained, PretrainedTower, is_known_family, load_adapted, load_audio_encoder,
    load_image_encoder, load_pretrained,
};
pub use recipe::Recipe;
pub use reward_check::{CheckedRewards, check_recipe_rewards};
pub use rewards::{
    CosineLengthSettings, CustomSettings, LearnedSettings, NoSettings, RewardConfig, RewardKind, RewardRule,
};
pub use roofline::{Roofline, bench_roofline};
pub use run::{RESUMABLE, RunSummary, write_report};
pub use scoring::{ScoreOptions, ScoredRow, check_scores_path, score_file, write_scores};
pub use stages::{StageConfig, StageSettings};
pub use task::{MediaAugment, MultimodalTask};
pub use text_side::TextSide;
pub use training::{Outcome, Quiet, Run, TrainOptions, train};

pub use burn;
pub use kyoka_algorithms as algorithms;
pub use kyoka_audio as audio;
pub use kyoka_core as core;
pub use kyoka_data as data;
pub use kyoka_environment as environments;
pub use kyoka_fusion as fusion;
pub use kyoka_image as image;
pub use kyoka_nn as nn;
pub use kyoka_reward as reward;
pub use kyoka_rollout as rollout;
pub use kyoka_text as text;
pub use kyoka_trainer as trainer;

/// The examples of the workspace's front page, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
