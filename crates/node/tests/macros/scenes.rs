//! Scenes by attribute.

use super::*;

/// A scene that ends while it is busy.
#[entity(steps_per_second = 20, root = node::rt)]
#[derive(Default)]
pub struct Stage;

#[rpc(root = node::rt)]
impl Stage {
    #[hook]
    fn step(&mut self, _cx: &mut Cx<Self>, _steps: scene::Steps) {
        note("step");
    }

    #[tell(server)]
    async fn fall(&mut self, cx: &mut Cx<Self>) {
        cx.sleep(Duration::from_millis(200)).await;
        note("fallen");
        cx.destroy();
    }
}

/// A step that waited in the mailbox of a scene that ended left it in the list of scenes for ever.
#[test]
fn scenes_end_with_their_entity_also_with_a_step_in_the_mailbox() {
    both(|mut bench| {
        bench.host.register::<Stage>();
        bench.run(|out| async move { out.entity::<Stage>(1).fall() }).unwrap();
        bench.wait(Duration::from_secs(1));
        check(&expect!["fallen"]);
        let stats = bench.host.stats();
        assert_eq!((stats.kinds[0].entities, stats.scenes.len()), (0, 0));
        assert_eq!(bench.host.next_turn(), None);
    });
}
