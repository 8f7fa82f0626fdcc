//! Checkpoints are read by rule, written back as they were, and refused by name where they are faulty.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

use burn::{
    module::Module,
    tensor::{Device, TensorData},
};
use kyoka_nn::{
    CheckpointFiles, CheckpointLayout, DiskTensor, Dtype, Fit, Linear, Norm, NormKind, TensorInfo,
    WeightInit, WeightRule, write_checkpoint, write_tensors,
};

fn info(dtype: Dtype, shape: &[usize]) -> TensorInfo {
    TensorInfo { dtype, shape: shape.to_vec() }
}

/// Values that f16 and bf16 hold exactly.
fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 251) as f32 - 100.0).collect()
}

fn tensor(name: &str, dtype: Dtype, shape: &[usize]) -> DiskTensor<'static> {
    DiskTensor::values(name, info(dtype, shape), ramp(shape.iter().product()))
}

fn file_with(tensors: Vec<DiskTensor<'_>>) -> (tempfile::TempDir, CheckpointFiles) {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), tensors, usize::MAX).unwrap();
    let files = CheckpointFiles::open(folder.path()).unwrap();
    (folder, files)
}

fn f32s(data: &TensorData) -> Vec<f32> {
    data.try_to_vec().unwrap()
}

#[test]
fn every_float_dtype_reads_as_f32_and_integers_do_not() {
    let dtypes = [("a", Dtype::F32), ("b", Dtype::F16), ("c", Dtype::BF16), ("d", Dtype::F64)];
    let mut tensors: Vec<_> = dtypes.iter().map(|(name, dtype)| tensor(name, *dtype, &[5, 3])).collect();
    let ids: Vec<u8> = [7_i64, -1, 1 << 40].iter().flat_map(|id| id.to_le_bytes()).collect();
    tensors.push(DiskTensor::stored("ids", info(Dtype::I64, &[3]), &ids));
    tensors.push(DiskTensor::stored("large", info(Dtype::U64, &[1]), &[255; 8]));
    tensors.push(DiskTensor::values("one", info(Dtype::F32, &[]), vec![2.5]));
    tensors.push(DiskTensor::values("none", info(Dtype::F32, &[0, 4]), vec![]));
    let (_folder, files) = file_with(tensors);
    for (name, dtype) in dtypes {
        assert_eq!(files.info(name).unwrap().dtype, dtype);
        let read = files.read_f32(name).unwrap();
        assert_eq!((read.shape().to_vec(), f32s(&read)), (vec![5, 3], ramp(15)));
        assert_eq!(files.read_f64(name).unwrap()[1], -99.0);
    }
    assert_eq!(files.read_i64("ids").unwrap(), [7, -1, 1 << 40]);
    assert_eq!(f32s(&files.read_f32("one").unwrap()), [2.5]);
    assert_eq!(files.read_f32("none").unwrap().shape().to_vec(), [0, 4]);
    let refused = files.read_f32("ids").unwrap_err().to_string();
    assert!(refused.contains("ids: expected numbers in F32, F16, BF16 or F64, got I64"), "{refused}");
    assert!(files.read_i64("large").unwrap_err().to_string().contains("large"));
    let unknown = files.read_f32("noen").unwrap_err().to_string();
    assert!(unknown.contains("noen: missing (nearest: none)"), "{unknown}");
}

/// Two projections of 45 inputs, larger than a tile and no multiple of one.
fn projections(dtype: Dtype) -> Vec<DiskTensor<'static>> {
    vec![tensor("q.weight", dtype, &[70, 45]), tensor("k.weight", dtype, &[33, 45])]
}

fn side_by_side() -> WeightRule {
    WeightRule::linear("qk", &["q".into(), "k".into()], false).remove(0).with_rows(&[70, 33])
}

#[test]
fn projections_stand_side_by_side() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let (_folder, files) = file_with(projections(dtype));
        let weight = side_by_side().assemble(&files).unwrap();
        assert_eq!(weight.shape().to_vec(), [45, 103]);
        let (values, q, k) = (f32s(&weight), ramp(70 * 45), ramp(33 * 45));
        for input in 0..45 {
            for output in 0..103 {
                let expected =
                    if output < 70 { q[output * 45 + input] } else { k[(output - 70) * 45 + input] };
                assert_eq!(values[input * 103 + output], expected, "({input}, {output})");
            }
        }
    }
}

#[test]
fn split_writes_the_tensors_that_assemble_read() {
    let mut tensors = projections(Dtype::BF16);
    tensors.push(tensor("conv.weight", Dtype::F16, &[6, 3, 2, 2]));
    tensors.push(tensor("conv.bias", Dtype::F32, &[6]));
    tensors.push(tensor("positions", Dtype::F32, &[1, 9, 4]));
    let (folder, files) = file_with(tensors);
    let mut rules = vec![side_by_side(), WeightRule::same("positions", "positions")];
    rules.extend(WeightRule::linear("conv", &["conv".into()], true));
    let values: Vec<TensorData> = rules.iter().map(|rule| rule.assemble(&files).unwrap()).collect();
    let layout = files.layout();
    let back: Vec<DiskTensor<'_>> =
        rules.iter().zip(&values).flat_map(|(rule, value)| rule.split(value, &layout).unwrap()).collect();
    let copy = tempfile::tempdir().unwrap();
    write_checkpoint(copy.path(), back, usize::MAX).unwrap();
    let read = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(read(copy.path()) == read(folder.path()), "the files differ");
}

#[test]
fn without_a_layout_the_rule_says_the_rows() {
    let (_folder, files) = file_with(projections(Dtype::F32));
    let weight = side_by_side().assemble(&files).unwrap();
    let tensors = side_by_side().split(&weight, &CheckpointLayout::new()).unwrap();
    assert_eq!(tensors[1].info, info(Dtype::F32, &[33, 45]));
    let silent = WeightRule { rows: Vec::new(), ..side_by_side() };
    assert!(silent.split(&weight, &CheckpointLayout::new()).unwrap_err().to_string().contains("q.weight"));
    let other = [("q.weight".to_owned(), info(Dtype::F32, &[71, 45]))].into();
    let misshapen = side_by_side().split(&weight, &other).unwrap_err().to_string();
    assert!(misshapen.contains("[71, 45] and [33, 45] together, got [45, 103]"), "{misshapen}");
}

#[test]
fn a_tensor_can_change_its_dtype_on_the_way() {
    let (_folder, files) = file_with(projections(Dtype::F32));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let tensors = files.names().map(|name| files.disk_tensor(name).unwrap().with_dtype(Dtype::BF16));
    write_tensors(&path, tensors.collect()).unwrap();
    let half = CheckpointFiles::open_file(&path).unwrap();
    assert_eq!(half.info("k.weight").unwrap(), &info(Dtype::BF16, &[33, 45]));
    assert_eq!(f32s(&half.read_f32("k.weight").unwrap()), ramp(33 * 45));
}

#[test]
fn shards_hold_what_one_file_would() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = || {
        vec![tensor("a", Dtype::F32, &[10]), tensor("b", Dtype::F32, &[10]), tensor("c", Dtype::F32, &[3])]
    };
    let names = || {
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    write_checkpoint(folder.path(), tensors(), 60).unwrap();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(names(), [shards[0], shards[1], "model.safetensors.index.json"]);
    let files = CheckpointFiles::open(folder.path()).unwrap();
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(f32s(&files.read_f32("c").unwrap()), ramp(3));
    write_checkpoint(folder.path(), tensors(), usize::MAX).unwrap();
    assert_eq!(names(), ["model.safetensors"], "the old shards are gone");

    write_checkpoint(folder.path(), tensors(), 60).unwrap();
    assert_eq!(names().len(), 3, "the old file is gone");
    let open = || CheckpointFiles::open(folder.path()).unwrap_err().to_string();
    let index_path = folder.path().join("model.safetensors.index.json");
    let index = fs::read_to_string(&index_path).unwrap();
    // A name that is listed and nowhere is no tensor; who needs it is told so.
    fs::write(&index_path, index.replace("\"c\":", "\"d\": \"model-00002-of-00002.safetensors\", \"c\":"))
        .unwrap();
    let files = CheckpointFiles::open(folder.path()).unwrap();
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(files.read_f32("d").unwrap_err().to_string().contains("d: missing"));
    for (from, to, words) in [
        (
            "\"c\": \"model-00002",
            "\"c\": \"model-00001",
            "c: expected in model-00001-of-00002.safetensors, got it in model-00002",
        ),
        ("\"c\":", "\"d\":", "c: expected in no shard, got it in model-00002"),
        ("model-00002", "model-00003", "model-00003-of-00002.safetensors"),
        ("\"model-00002", "\"../model-00002", "a file name without folder"),
        ("\"c\":", "\"a\":", "a: the name stands twice"),
        ("{", "[", "weight_map"),
    ] {
        fs::write(&index_path, index.replace(from, to)).unwrap();
        let error = open();
        assert!(error.contains(words) && error.contains("model.safetensors.index.json"), "{words}: {error}");
    }
}

/// A file of a header and zeros.
fn raw(header: &str, num_zeros: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [length.as_slice(), header.as_bytes(), &vec![0; num_zeros]].concat()
}

#[test]
fn faulty_files_are_refused_with_file_and_field() {
    let entry = |name: &str, shape: &str, start: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let one = |shape, start, end| format!("{{{}}}", entry("a", shape, start, end));
    let two = |b| format!("{{{},{b}}}", entry("a", "[2]", 0, 8));
    let good = raw(&two(entry("b", "[2]", 8, 16)), 16);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "expected at least 8 bytes, got 0 bytes"),
        (vec![1, 2, 3], "expected at least 8 bytes, got 3 bytes"),
        (
            [&(1_u64 << 63).to_le_bytes()[..], b"{}"].concat(),
            "expected at most 2 bytes, got 9223372036854775808",
        ),
        (good[..40].to_vec(), "header length: expected at most 32 bytes"),
        (good[..good.len() - 1].to_vec(), "b: expected data within the 15 bytes"),
        ([good.as_slice(), &[0]].concat(), "expected 16 bytes, the end of b, got 17 bytes"),
        (raw(&two(entry("b", "[2]", 4, 12)), 12), "b: expected data from byte 8, got 4, which overlaps a"),
        (
            raw(&two(entry("b", "[2]", 12, 20)), 20),
            "b: expected data from byte 8, got 12, which leaves a hole",
        ),
        (raw(&two(entry("b", "[2]", 16, 8)), 16), "b: expected data within the 16 bytes"),
        (raw(&two(entry("a", "[2]", 8, 16)), 16), "a: the name stands twice"),
        (raw(&one("[3]", 0, 8), 8), "a: expected 12 bytes for F32 of shape [3], got 8 bytes"),
        (raw(&one("[4294967296,4294967296]", 0, 8), 8), "a: expected more than 2^64 bytes"),
        (raw(&one("[0,4294967296,4294967296]", 0, 0), 0), "a: expected more than 2^64 bytes"),
        (raw(&one("[-1]", 0, 8), 8), "header"),
        (raw(&one("[2]", 0, 8).replace("F32", "F31"), 8), "F31"),
        (
            raw(&one("[2]", 0, 8).replace("\"shape\":[2],", "\"shape\":[2],\"shape\":[2],"), 8),
            "duplicate field",
        ),
        (raw(r#"{"__metadata__":{"a":1}}"#, 0), "__metadata__"),
        (raw("[]", 0), "an object of tensors"),
        (raw("{} x", 0), "trailing"),
        (raw(&"[".repeat(100_000), 0), "header"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (bytes, words) in cases {
        fs::write(&path, &bytes).unwrap();
        let error = CheckpointFiles::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("model.safetensors"), "{words}: {error}");
    }
    fs::write(&path, good).unwrap();
    assert!(CheckpointFiles::open(folder.path()).is_ok());
}

#[test]
fn a_changed_byte_never_panics() {
    let (folder, files) = file_with(projections(Dtype::F16));
    drop(files);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let data_start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for place in 0..data_start {
        for flip in [1, 4, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[place] ^= flip;
            // Replaced, not rewritten: a file under a map must stay whole.
            fs::remove_file(&path).unwrap();
            fs::write(&path, changed).unwrap();
            if let Ok(files) = CheckpointFiles::open(folder.path()) {
                let _ = side_by_side().assemble(&files);
            }
        }
    }
}

#[test]
fn folders_and_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| CheckpointFiles::open(path).unwrap_err().to_string();
    assert!(
        open(folder.path())
            .contains("expected model.safetensors or model.safetensors.index.json, got neither")
    );
    assert!(open(&folder.path().join("nothing")).contains("nothing"));
    let path = folder.path().join("model.safetensors");
    fs::create_dir(&path).unwrap();
    assert!(open(folder.path()).contains("expected a file, got a folder"));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "x").unwrap();
    assert!(open(&path).contains("expected a folder, got a file"));
}

#[derive(Module, Debug)]
struct Tiny {
    qk: Linear,
    norm: Norm,
}

fn tiny(mut init: WeightInit) -> Tiny {
    Tiny { qk: init.linear(45, 103, true), norm: Norm::new(NormKind::Layer, 45, 1e-5, &init) }
}

fn tiny_rules() -> Vec<WeightRule> {
    let mut rules = WeightRule::linear("qk", &["q".into(), "k".into()], true);
    rules.push(WeightRule::same("norm.gamma", "norm.weight"));
    rules.push(WeightRule::same("norm.beta", "norm.bias"));
    rules
}

fn tiny_tensors() -> Vec<DiskTensor<'static>> {
    let mut tensors = projections(Dtype::F32);
    let vectors = [("q.bias", 70), ("k.bias", 33), ("norm.weight", 45), ("norm.bias", 45)];
    tensors.extend(vectors.map(|(name, size)| tensor(name, Dtype::F32, &[size])));
    tensors
}

#[test]
fn a_module_is_filled_whether_its_weights_were_drawn_or_not() {
    let (_folder, files) = file_with(tiny_tensors());
    let device = Device::flex();
    for init in [WeightInit::new(1, &device), WeightInit::blank(&device)] {
        let loaded = files.load(tiny(init), Fit::exact(&tiny_rules())).unwrap();
        let weight = side_by_side().assemble(&files).unwrap();
        assert_eq!(f32s(&loaded.qk.weight.val().into_data()), f32s(&weight));
        assert_eq!(f32s(&loaded.norm.beta.as_ref().unwrap().val().into_data()), ramp(45));
    }
    let trained = files.load(tiny(WeightInit::blank(&device.autodiff())), Fit::exact(&tiny_rules())).unwrap();
    assert!(trained.qk.weight.val().is_require_grad());
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once() {
    let mut tensors = tiny_tensors();
    tensors
        .retain(|tensor| !["q.weight", "k.bias", "norm.bias", "norm.weight"].contains(&tensor.name.as_str()));
    tensors.push(tensor("q.weight", Dtype::F32, &[70, 44]));
    tensors.push(tensor("norm.baas", Dtype::F32, &[45]));
    tensors.push(tensor("vision.x", Dtype::F32, &[2]));
    tensors.push(DiskTensor::stored("norm.weight", info(Dtype::U8, &[45]), &[0; 45]));
    let (_folder, files) = file_with(tensors);
    let mut rules = tiny_rules();
    rules[0] = side_by_side();
    let init = || tiny(WeightInit::blank(&Device::flex()));
    let error = files.load(init(), Fit::exact(&rules)).unwrap_err().to_string();
    for line in [
        "6 tensor(s) do not fit",
        "q.weight: expected shape [70, 45], got [70, 44]",
        "norm.weight: expected numbers in F32, F16, BF16 or F64, got U8",
        "k.bias: missing",
        "norm.bias: missing (nearest: norm.baas)",
        "norm.baas: not a tensor of this model (nearest: norm.bias)",
        "vision.x: not a tensor of this model",
    ] {
        assert!(error.contains(line), "{line}: {error}");
    }
    rules.truncate(1);
    let error = files.load(init(), Fit::exact(&rules)).unwrap_err().to_string();
    assert!(error.contains("qk.bias: nothing on disk belongs to this parameter"), "{error}");
    let (_folder, files) = file_with(projections(Dtype::F32));
    let fit = Fit { fresh: &|name| name != "qk.weight", ..Fit::exact(&rules) };
    assert!(files.load(init(), fit).is_ok(), "parameters that are named stay as they are");
}

#[test]
fn rows_of_the_rule_tell_what_a_sum_hides() {
    let (_folder, files) =
        file_with(vec![tensor("q.weight", Dtype::F32, &[33, 45]), tensor("k.weight", Dtype::F32, &[70, 45])]);
    let faults = side_by_side().assemble(&files).unwrap_err();
    assert_eq!(faults.len(), 2);
    assert_eq!(faults[0].to_string(), "q.weight: expected shape [70, 45], got [33, 45]");
}

#[test]
fn zeros_that_are_not_on_disk_come_and_go() {
    let mut rule = WeightRule::linear("qkv", &["q".into(), "k".into(), "v".into()], true).remove(1);
    rule.tensors[1] = WeightRule::ZEROS.to_owned();
    let rule = rule.with_rows(&[2, 3, 1]);
    let (_folder, files) =
        file_with(vec![tensor("q.bias", Dtype::F32, &[2]), tensor("v.bias", Dtype::F32, &[1])]);
    let value = rule.assemble(&files).unwrap();
    assert_eq!(value.try_to_vec::<f32>().unwrap(), [-100.0, -99.0, 0.0, 0.0, 0.0, -100.0]);
    let back = rule.split(&value, &files.layout()).unwrap();
    let names: Vec<&str> = back.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["q.bias", "v.bias"]);
}
