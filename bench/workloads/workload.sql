create table word(id integer primary key, name text, weight integer);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 12000)
insert into word select i, 'w' || (i * 7919 % 10007), i * 31 % 1009 from n;
create index by_name on word(name);
create index by_weight on word(weight);
select count(*), sum(a.id + b.weight) from word a join word b on a.name = b.name;
update word set weight = weight + 1 where id % 3 = 0;
select weight, count(*), min(name), max(name) from word group by weight order by 2 desc, 1 limit 5;
delete from word where weight between 100 and 300;
select count(*), total(weight) from word where name like 'w1%';
