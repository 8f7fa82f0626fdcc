//! Sounds of many containers and codecs give the samples that libsndfile reads, whatever lengths their heads state; what
//! is cut or not read is an error that says so.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, io::Cursor, path::Path};

use kyoka_audio::{AudioError, Recording, Waveform};
use safetensors::SafeTensors;
use serde_json::{Map, Value};

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/formats"));
    fs::read(folder.join(name)).unwrap()
}

fn manifest() -> Map<String, Value> {
    let Value::Object(files) = serde_json::from_slice(&golden("manifest.json")).unwrap() else { panic!() };
    assert!(!files.is_empty());
    files
}

/// Files that are read, each with its largest difference.
fn read_files() -> Vec<(String, f32)> {
    let most = |about: &Value| about["most"].as_f64().map(|most| most as f32);
    manifest().iter().filter_map(|(name, about)| Some((name.clone(), most(about)?))).collect()
}

/// A 16-bit WAV file of 16 kHz; `fmt` extends the format chunk, `between` stands before the samples.
fn wav(samples: &[i16], between: &[u8]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0".to_vec();
    file.extend(between);
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    let length = file.len() as u32 - 8;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    file
}

/// The place of a chunk's length.
fn length_of(file: &[u8], chunk: &[u8; 4]) -> usize {
    file.windows(4).position(|four| four == chunk).unwrap() + 4
}

fn samples(file: &[u8]) -> Result<Vec<f32>, String> {
    Recording::decode(file).map(|recording| recording.samples).map_err(|error| error.to_string())
}

#[test]
fn every_format_gives_the_samples_of_libsndfile() {
    let bytes = golden("samples.safetensors");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    for (name, most) in read_files() {
        let recording = Recording::decode(&golden(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let view = expected.tensor(&name).unwrap();
        let values = view.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        assert_eq!(view.shape()[1], recording.channels, "{name}");
        assert_eq!(recording.samples.len(), view.shape().iter().product::<usize>(), "{name}");
        let far = recording.samples.iter().zip(values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far <= most, "{name}: a sample differs by {far}");
        assert_eq!(
            u64::from(recording.sample_rate_hz),
            manifest()[&name]["rate"].as_u64().unwrap(),
            "{name}"
        );
    }
}

#[test]
fn the_head_tells_what_decoding_gives() {
    for (name, _) in read_files() {
        let file = golden(&name);
        let header = Waveform::probe(Cursor::new(&file)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let recording = Recording::decode(&file).unwrap();
        assert_eq!(
            (header.channels, header.sample_rate_hz),
            (recording.channels, recording.sample_rate_hz),
            "{name}"
        );
        let decoded = Waveform::decode(&file).unwrap().samples.len();
        assert_eq!(header.num_samples, Some(decoded), "{name}");
    }
    let mp3 = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tone.mp3")).unwrap();
    assert_eq!(Waveform::probe(Cursor::new(&mp3)).unwrap().num_samples, None);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tone.flac");
    let (whole, file) = (fs::read(path).unwrap(), fs::File::open(path).unwrap());
    assert_eq!(
        Waveform::probe(file).unwrap().num_samples,
        Some(Waveform::decode(&whole).unwrap().samples.len())
    );
}

#[test]
fn what_is_not_read_says_what_to_do() {
    for (name, part) in [("gsm.wav", "GSM 6.10"), ("ima4.aiff", "ima4"), ("plain.au", "another format")] {
        for error in [
            Waveform::decode(&golden(name)).unwrap_err().to_string(),
            Waveform::probe(Cursor::new(golden(name))).unwrap_err().to_string(),
        ] {
            assert!(error.contains(part) && error.contains("ffmpeg -i"), "{name}: {error}");
        }
    }
}

#[test]
fn cut_files_are_errors() {
    for (name, _) in read_files() {
        let whole = golden(&name);
        for cut in
            [1, 5, 30, 45, whole.len() * 3 / 10, whole.len() * 6 / 10, whole.len() - 40, whole.len() - 3]
        {
            let result = Waveform::decode(&whole[..cut]);
            assert!(
                result.is_err(),
                "{name} cut after {cut} of {}: {:?}",
                whole.len(),
                result.map(|s| s.samples.len())
            );
        }
    }
}

#[test]
fn damage_within_a_file_is_an_error() {
    for name in ["mono.flac", "vorbis.ogg"] {
        let mut file = golden(name);
        let middle = file.len() * 7 / 10;
        file[middle..middle + 20].fill(0x55);
        assert!(Waveform::decode(&file).is_err(), "{name}");
    }
}

#[test]
fn lengths_left_open_reach_to_the_end_of_the_file() {
    let values: Vec<i16> = (0..400).map(|i| (i * 37 % 2001 - 1000) as i16).collect();
    let file = wav(&values, b"LIST\x04\0\0\0INFO");
    let expected = samples(&file).unwrap();
    assert_eq!(expected.len(), 400);
    for open in [0, u32::MAX, 0x7fff_ffff, 0x7fff_f000, 0x8000_0000, u32::MAX - 36, u32::MAX - 8] {
        for head in [0, u32::MAX, open, open.wrapping_add(36)] {
            let mut file = file.clone();
            let place = length_of(&file, b"data");
            file[place..place + 4].copy_from_slice(&open.to_le_bytes());
            file[4..8].copy_from_slice(&head.to_le_bytes());
            assert_eq!(samples(&file), Ok(expected.clone()), "{open:#x} in a file of {head:#x}");
            let header = Waveform::probe(Cursor::new(&file)).unwrap();
            assert_eq!(header.num_samples, Some(400), "{open:#x} in a file of {head:#x}");
            // The last moment is not whole.
            file.pop();
            assert_eq!(samples(&file), Ok(expected[..399].to_vec()), "{open:#x} in a file of {head:#x}");
        }
    }
}

#[test]
fn aiff_lengths_left_open_reach_to_the_end_of_the_file() {
    for name in ["s16.aiff", "sowt.aiff", "f32.aiff"] {
        let whole = golden(name);
        let expected = samples(&whole).unwrap();
        let place = length_of(&whole, b"SSND");
        // The samples must come last for their length to be open.
        let length = u32::from_be_bytes(whole[place..place + 4].try_into().unwrap()) as usize;
        let whole = whole[..place + 4 + length].to_vec();
        for open in [0, 8, u32::MAX, 0x7fff_ffff] {
            let mut file = whole.clone();
            file[4..8].copy_from_slice(&open.to_be_bytes());
            file[place..place + 4].copy_from_slice(&open.to_be_bytes());
            assert_eq!(samples(&file), Ok(expected.clone()), "{name}: {open:#x}");
        }
    }
}

#[test]
fn a_wrong_length_in_a_whole_file_is_mended_and_a_cut_file_is_not() {
    let values: Vec<i16> = (0..100).collect();
    let mut file = wav(&values, b"");
    let (place, expected) = (length_of(&file, b"data"), samples(&file).unwrap());
    // Some writers put the file's length there.
    let length = file.len() as u32;
    file[place..place + 4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(samples(&file), Ok(expected.clone()));
    file[4..8].copy_from_slice(&(length * 2).to_le_bytes());
    assert_eq!(samples(&file).unwrap_err(), "sound: the file is cut short");
    // What stands behind the samples is no sound.
    let mut file = wav(&values, b"");
    file.extend(b"LIST\x04\0\0\0INFO");
    assert_eq!(samples(&file), Ok(expected));
}

#[test]
fn sixty_four_bit_lengths_are_read() {
    let whole = golden("rf64_s16.wav");
    let expected = samples(&whole).unwrap();
    let mut bw64 = whole.clone();
    bw64[..4].copy_from_slice(b"BW64");
    assert_eq!(samples(&bw64), Ok(expected.clone()));
    let mut open = whole.clone();
    let lengths = length_of(&whole, b"ds64") + 4;
    for value in [0, u64::MAX] {
        open[lengths..lengths + 8].copy_from_slice(&value.to_le_bytes());
        open[lengths + 8..lengths + 16].copy_from_slice(&value.to_le_bytes());
        assert_eq!(samples(&open), Ok(expected.clone()));
    }
}

#[test]
fn formats_of_odd_lengths_are_read() {
    let values: Vec<i16> = (0..50).map(|i| i * 100).collect();
    let plain = wav(&values, b"");
    let expected = samples(&plain).unwrap();
    // Longer format chunks, with and without what their last field promises, and facts of any length.
    for extension in [vec![0, 0], vec![4, 0, 1, 2, 3, 4], vec![0; 24], vec![9; 8]] {
        let mut file = plain[..12].to_vec();
        file.extend(b"fmt ");
        file.extend((16 + extension.len() as u32).to_le_bytes());
        file.extend(&plain[20..36]);
        file.extend(&extension);
        file.extend(b"fact\x08\0\0\0\0\0\0\0\0\0\0\0");
        file.extend(&plain[36..]);
        assert_eq!(samples(&file), Ok(expected.clone()), "{extension:?}");
    }
    let mut none = plain.clone();
    none[22..24].fill(0);
    assert!(samples(&none).unwrap_err().contains("no channels"));
    let mut rate = plain.clone();
    rate[24..28].fill(0);
    assert!(samples(&rate).unwrap_err().contains("sampling rate"));
    let mut bits = plain;
    bits[34..36].copy_from_slice(&[0, 0]);
    assert!(samples(&bits).unwrap_err().contains("0 bits"));
}

#[test]
fn flac_without_a_length_is_read_to_its_end() {
    let mut file = golden("mono.flac");
    let expected = samples(&file).unwrap();
    // 36 bits in the middle of the stream's description, behind mark, block head and ten bytes of sizes.
    file[21] &= 0xf0;
    file[22..26].fill(0);
    assert_eq!(samples(&file), Ok(expected));
    assert_eq!(Waveform::probe(Cursor::new(&file)).unwrap().num_samples, None);
}

#[test]
fn samples_that_are_no_numbers_are_named_with_their_place() {
    let mut file =
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x03\0\x02\0\x80\x3e\0\0\0\xf4\x01\0\x08\0\x20\0data".to_vec();
    let values = [0.0, 0.1, 0.2, 0.3, 0.4, f32::NEG_INFINITY, f32::NAN, 0.0];
    file.extend((values.len() as u32 * 4).to_le_bytes());
    file.extend(values.iter().flat_map(|value: &f32| value.to_le_bytes()));
    let error = Waveform::decode(&file).unwrap_err();
    assert!(matches!(error, AudioError::NotFinite { index: 2, channel: 2, .. }), "{error}");
    assert!(error.to_string().contains("got -inf at 0.000 s"), "{error}");
}

#[test]
fn sounds_of_a_few_samples_keep_their_length_and_none_is_an_error() {
    for count in [1, 2, 159, 160, 161, 319, 400, 480] {
        let file = wav(&vec![100; count], b"");
        assert_eq!(Waveform::decode(&file).unwrap().samples.len(), count);
        assert_eq!(Waveform::probe(Cursor::new(&file)).unwrap().num_samples, Some(count));
    }
    let none = wav(&[], b"");
    assert!(matches!(Waveform::decode(&none), Err(AudioError::NoSound(_))));
    assert!(matches!(Waveform::probe(Cursor::new(&none)), Err(AudioError::NoSound(_))));
    // One sample at 48 kHz is a third of one, which is rounded up, as librosa does.
    let mut fast = wav(&[100], b"");
    fast[24..28].copy_from_slice(&48_000_u32.to_le_bytes());
    assert_eq!(Waveform::decode(&fast).unwrap().samples.len(), 1);
    assert_eq!(Waveform::probe(Cursor::new(&fast)).unwrap().num_samples, Some(1));
    assert!(matches!(Waveform::probe(Cursor::new(b"")), Err(AudioError::Empty)));
}
