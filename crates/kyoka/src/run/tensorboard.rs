//! TensorBoard event files with scalars.
//!
//! A file is a row of records: length, its masked CRC-32C, a serialised `Event` message, its masked CRC-32C
//! (TensorFlow's `record_writer.h` and `event.proto`).

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

/// Appends scalars to an event file.
pub struct EventWriter {
    file: BufWriter<File>,
    clock: fn() -> f64,
}

impl EventWriter {
    /// Starts a file in `folder`; the name carries the time, so that a resumed run adds a file of its own.
    pub fn create(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
        let name = format!("events.out.tfevents.{:.0}.kyoka.{}", clock(), std::process::id());
        let mut writer = Self { file: BufWriter::new(File::create(folder.join(name))?), clock };
        let mut version = Vec::new();
        field_bytes(&mut version, 3, b"brain.Event:2");
        writer.event(0, &version)?;
        Ok(writer)
    }

    /// Adds values of one step.
    pub fn scalars<'a>(
        &mut self,
        step: usize,
        values: impl Iterator<Item = (&'a str, f64)>,
    ) -> std::io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            field_bytes(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            field_bytes(&mut summary, 1, &entry);
        }
        let mut body = Vec::new();
        field_bytes(&mut body, 5, &summary);
        self.event(step, &body)?;
        self.file.flush()
    }

    fn event(&mut self, step: usize, body: &[u8]) -> std::io::Result<()> {
        let mut event = vec![1 << 3 | 1];
        event.extend((self.clock)().to_le_bytes());
        event.push(2 << 3);
        varint(&mut event, step as u64);
        event.extend_from_slice(body);
        let length = (event.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_crc(&length).to_le_bytes())?;
        self.file.write_all(&event)?;
        self.file.write_all(&masked_crc(&event).to_le_bytes())
    }
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tensorflow_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        EventWriter::create(folder.path()).unwrap().scalars(300, [("loss", 0.5)].into_iter()).unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(crc(&rest[8..12]), masked_crc(&rest[..8]));
            let event = &rest[12..12 + length];
            assert_eq!(crc(&rest[12 + length..16 + length]), masked_crc(event));
            events.push(event.to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(events.len(), 2);
        assert!(events[0].ends_with(b"brain.Event:2"));
        // Field 2 (step) = 300 as a varint, then field 5 (summary) > field 1 (value) > tag "loss", value 0.5.
        let mut expected = vec![0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4];
        expected.extend(b"loss");
        expected.push(0x15);
        expected.extend(0.5_f32.to_le_bytes());
        assert!(events[1].ends_with(&expected));
    }
}
