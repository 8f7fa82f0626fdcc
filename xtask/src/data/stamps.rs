//! The stamps of Tux Paint: drawings and photos, each with a name that is spoken.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Longest side of a drawing made from lines, in pixels: about that of the others.
const SVG_SIDE: f32 = 240.0;

/// A picture and its spoken name.
pub struct Stamp {
    /// Path under the stamps' folder, without ending.
    pub path: String,
    /// What it shows, in English, as one word: `traffic-cone`.
    pub label: String,
    /// What the voice says, in French.
    pub spoken: String,
    /// Stamps of one group cannot be told apart by name: they have the same French or English name, or the same sound.
    pub group: usize,
    picture: PathBuf,
    sound: PathBuf,
}

impl Stamp {
    /// The picture as a PNG: the package's own where it has one, else drawn from the SVG.
    pub fn png(&self) -> Result<Vec<u8>> {
        let bytes = read(&self.picture)?;
        match self.picture.extension().is_some_and(|ending| ending == "svg") {
            true => draw(&bytes).with_context(|| self.picture.display().to_string()),
            false => Ok(bytes),
        }
    }

    /// The spoken French name, Ogg Vorbis.
    pub fn ogg(&self) -> Result<Vec<u8>> {
        read(&self.sound)
    }

    /// One without files.
    #[cfg(test)]
    pub fn named(name: &str, group: usize) -> Self {
        let (picture, sound) = (PathBuf::new(), PathBuf::new());
        Self { path: name.into(), label: name.into(), spoken: name.into(), group, picture, sound }
    }
}

/// All stamps under a folder that have a picture and a French voice, by path.
pub fn read_all(folder: &Path) -> Result<Vec<Stamp>> {
    let mut sounds = Vec::new();
    collect(folder, &mut sounds)?;
    sounds.sort();
    let stamps: Result<Vec<Option<Stamp>>> = sounds.iter().map(|sound| read_one(folder, sound)).collect();
    let mut stamps: Vec<Stamp> = stamps?.into_iter().flatten().collect();
    ensure!(!stamps.is_empty(), "{}: no stamp with a picture and a French voice", folder.display());
    group(&mut stamps)?;
    Ok(stamps)
}

const VOICE: &str = "_desc_fr.ogg";

fn collect(folder: &Path, sounds: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sounds)?;
        } else if path.to_string_lossy().ends_with(VOICE) {
            sounds.push(path);
        }
    }
    Ok(())
}

/// Nothing where the voice has no picture.
fn read_one(folder: &Path, sound: &Path) -> Result<Option<Stamp>> {
    let whole = sound.to_string_lossy();
    let stem = whole.strip_suffix(VOICE).context("voices are found by their ending")?;
    let pictures = ["png", "svg"].map(|ending| PathBuf::from(format!("{stem}.{ending}")));
    let Some(picture) = pictures.into_iter().find(|path| path.is_file()) else { return Ok(None) };
    let names = String::from_utf8_lossy(&read(Path::new(&format!("{stem}.txt")))?).into_owned();
    let spoken = names.lines().find_map(|line| line.strip_prefix("fr.utf8="));
    let spoken = spoken.with_context(|| format!("{stem}.txt: no French name"))?.trim().to_owned();
    let path = Path::new(stem).strip_prefix(folder)?.to_string_lossy().replace('\\', "/");
    let label = label(names.lines().next().unwrap_or_default());
    ensure!(!label.is_empty(), "{stem}.txt: no English name");
    Ok(Some(Stamp { path, label, spoken, group: 0, picture, sound: sound.to_owned() }))
}

/// The first clause of an English name without its article, as one word.
fn label(name: &str) -> String {
    let clause = name.split(['.', ',', '(', '!', ';', ':', '—']).find(|clause| !clause.trim().is_empty());
    let lower = clause.unwrap_or_default().to_lowercase();
    let kept = |c: char| c.is_alphanumeric() || c == '$' || c == '-';
    let words = lower.split_whitespace().map(|word| word.chars().filter(|&c| kept(c)).collect::<String>());
    let mut words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    if words.len() > 1 && ["a", "an", "the", "this", "some"].contains(&words[0].as_str()) {
        words.remove(0);
    }
    words.join("-")
}

/// Numbers the groups in order of their first stamp.
fn group(stamps: &mut [Stamp]) -> Result<()> {
    let mut parents: Vec<usize> = (0..stamps.len()).collect();
    let mut first_with: HashMap<(u8, Vec<u8>), usize> = HashMap::new();
    for (place, stamp) in stamps.iter().enumerate() {
        let keys = [
            (0, stamp.spoken.to_lowercase().into_bytes()),
            (1, stamp.label.clone().into_bytes()),
            (2, stamp.ogg()?),
        ];
        for key in keys {
            let first = *first_with.entry(key).or_insert(place);
            let (a, b) = (root(&parents, first), root(&parents, place));
            parents[a.max(b)] = a.min(b);
        }
    }
    let mut numbers = HashMap::new();
    for (place, stamp) in stamps.iter_mut().enumerate() {
        let next = numbers.len();
        stamp.group = *numbers.entry(root(&parents, place)).or_insert(next);
    }
    Ok(())
}

fn root(parents: &[usize], mut place: usize) -> usize {
    while parents[place] != place {
        place = parents[place];
    }
    place
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Draws an SVG without its texts and embedded pictures: those would depend on the fonts of the machine.
fn draw(svg: &[u8]) -> Result<Vec<u8>> {
    use resvg::{tiny_skia, usvg};
    let tree = usvg::Tree::from_data(svg, &usvg::Options::default())?;
    let (width, height) = (tree.size().width(), tree.size().height());
    let scale = SVG_SIDE / width.max(height);
    let (columns, rows) = ((width * scale).ceil() as u32, (height * scale).ceil() as u32);
    let mut pixels = tiny_skia::Pixmap::new(columns.max(1), rows.max(1)).context("a drawing has a size")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
    let rgba = pixels.pixels().iter().flat_map(|pixel| {
        let colour = pixel.demultiply();
        [colour.red(), colour.green(), colour.blue(), colour.alpha()]
    });
    let picture = image::RgbaImage::from_raw(pixels.width(), pixels.height(), rgba.collect());
    let mut png = std::io::Cursor::new(Vec::new());
    picture.context("four bytes a pixel")?.write_to(&mut png, image::ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_one_word() {
        for (name, expected) in [
            ("A traffic cone.", "traffic-cone"),
            ("Uranus—one of the “gas giants” in our solar system.", "uranus"),
            ("“Toilets”.", "toilets"),
            ("The letter A.", "letter-a"),
            ("A Jack-o’-lantern.", "jack-o-lantern"),
            ("A.", "a"),
        ] {
            assert_eq!(label(name), expected);
        }
    }

    fn write(folder: &Path, stem: &str, name: &str, spoken: &str, sound: &str) {
        fs::write(folder.join(format!("{stem}.png")), stem).unwrap();
        fs::write(folder.join(format!("{stem}.txt")), format!("{name}\nde.utf8=x\nfr.utf8={spoken}\n"))
            .unwrap();
        fs::write(folder.join(format!("{stem}{VOICE}")), sound).unwrap();
    }

    #[test]
    fn stamps_that_sound_or_read_alike_form_a_group() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a", "A cat.", "Un chat.", "1");
        write(folder.path(), "b", "A dog.", "Un chien.", "2");
        write(folder.path(), "c", "A tomcat.", "Un Chat.", "3");
        write(folder.path(), "d", "A kitten.", "Un chaton.", "3");
        fs::write(folder.path().join(format!("e{VOICE}")), "4").unwrap();
        let stamps = read_all(folder.path()).unwrap();
        let found: Vec<_> = stamps.iter().map(|stamp| (stamp.path.as_str(), stamp.group)).collect();
        assert_eq!(
            found,
            [("a", 0), ("b", 1), ("c", 0), ("d", 0)],
            "the voice without a picture is left out"
        );
    }

    #[test]
    fn drawings_have_the_size_of_the_other_pictures() {
        let svg = br#"<svg xmlns="http://www.w3.org/2000/svg" width="10" height="20"><rect width="10" height="10" fill="red"/></svg>"#;
        let picture = image::load_from_memory(&draw(svg).unwrap()).unwrap().into_rgba8();
        assert_eq!(picture.dimensions(), (120, 240));
        assert_eq!(picture.get_pixel(60, 60).0, [255, 0, 0, 255]);
        assert_eq!(picture.get_pixel(60, 180).0[3], 0);
    }
}
